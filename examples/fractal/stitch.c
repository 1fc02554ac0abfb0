// Joins the tiles of tile.c into one picture.
//
// Usage: stitch EDGE
// Reads /in/tiles/X-Y.ppm for 0 <= X, Y < EDGE, each as tile.c writes it; X counts columns, Y rows.
// Writes /out/poster.png. The PNG is not compressed: each row of pixels is one stored block of the deflate format
// (RFC 1951, 3.2.4) in one IDAT chunk of its own, which needs no library and which every viewer opens.
// Exits with 0, or with 1 and a line on stderr when a tile is missing or not a tile, or the picture cannot be written.

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TILE 256    // pixels along the edge of a tile
#define EDGE_MAX 32 // tiles along the edge of the picture; a stored block has at most 65,535 bytes
#define POSTER "/out/poster.png"

static const char TILE_HEADER[] = "P6\n256 256\n255\n";

_Noreturn static void die(const char *what) {
    perror(what);
    exit(1);
}

// Reads the tile at X, Y into `band`: the pixels of one row of tiles.
static void read_tile(uint8_t *band, int x, int y, int edge) {
    static uint8_t tile[sizeof TILE_HEADER - 1 + TILE * TILE * 3];
    char path[64];
    snprintf(path, sizeof path, "/in/tiles/%d-%d.ppm", x, y);
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        die(path);
    }
    size_t length = fread(tile, 1, sizeof tile, file);
    if (ferror(file)) {
        die(path);
    }
    if (length != sizeof tile || getc(file) != EOF || memcmp(tile, TILE_HEADER, sizeof TILE_HEADER - 1) != 0) {
        fprintf(stderr, "%s: is not a binary PPM of 256 by 256 pixels\n", path);
        exit(1);
    }
    fclose(file);
    const uint8_t *from = tile + sizeof TILE_HEADER - 1;
    for (int row = 0; row < TILE; row++, from += TILE * 3) {
        memcpy(band + (row * edge + x) * TILE * 3, from, TILE * 3);
    }
}

static uint8_t *put_u32(uint8_t *at, uint32_t value) {
    for (int shift = 24; shift >= 0; shift -= 8) {
        *at++ = (uint8_t)(value >> shift);
    }
    return at;
}

// The checksum of a PNG chunk (PNG specification, annex D).
static uint32_t crc_of(const uint8_t *bytes, size_t length) {
    static uint32_t table[256];
    if (table[1] == 0) {
        for (uint32_t n = 0; n < 256; n++) {
            table[n] = n;
            for (int bit = 0; bit < 8; bit++) {
                table[n] = table[n] & 1 ? table[n] >> 1 ^ 0xedb88320u : table[n] >> 1;
            }
        }
    }
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < length; i++) {
        crc = table[(crc ^ bytes[i]) & 0xff] ^ crc >> 8;
    }
    return ~crc;
}

// The checksum of the uncompressed data (RFC 1950, 8.2), continued from `adler`; it begins with 1.
static uint32_t adler_of(uint32_t adler, const uint8_t *bytes, size_t length) {
    uint32_t low = adler & 0xffff, high = adler >> 16;
    while (length > 0) {
        size_t part = length < 5552 ? length : 5552; // so many bytes cannot overflow 32 bits
        length -= part;
        for (; part > 0; part--) {
            low += *bytes++;
            high += low;
        }
        low %= 65521;
        high %= 65521;
    }
    return high << 16 | low;
}

// Writes a chunk. `chunk` has 4 bytes of space for the length, then the type, the data, and 4 bytes for the checksum;
// `end` points behind the data.
static void write_chunk(FILE *file, uint8_t *chunk, uint8_t *end) {
    put_u32(chunk, (uint32_t)(end - chunk - 8));
    end = put_u32(end, crc_of(chunk + 4, (size_t)(end - chunk - 4)));
    if (fwrite(chunk, (size_t)(end - chunk), 1, file) != 1) {
        die(POSTER);
    }
}

// Puts the type of a chunk in its place and returns where its data begins.
static uint8_t *begin_chunk(uint8_t *chunk, const char *type) {
    memcpy(chunk + 4, type, 4);
    return chunk + 8;
}

static void write_head(FILE *file, uint32_t pixels) {
    static const uint8_t signature[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    if (fwrite(signature, sizeof signature, 1, file) != 1) {
        die(POSTER);
    }
    uint8_t chunk[8 + 13 + 4];
    uint8_t *at = begin_chunk(chunk, "IHDR");
    at = put_u32(at, pixels);
    at = put_u32(at, pixels);
    memcpy(at, (uint8_t[]){8, 2, 0, 0, 0}, 5); // 8 bits each for red, green and blue; not interlaced
    write_chunk(file, chunk, at + 5);
}

// Writes one row of pixels; `adler` is the checksum of the rows before it and becomes that of all so far.
static void write_row(FILE *file, const uint8_t *pixels, uint16_t bytes, bool first, bool last, uint32_t *adler) {
    // Head (8), zlib header (2), block header (5), filter (1), pixels, adler (4), checksum (4).
    static uint8_t chunk[24 + EDGE_MAX * TILE * 3];
    uint8_t *at = begin_chunk(chunk, "IDAT");
    if (first) {
        memcpy(at, (uint8_t[]){0x78, 0x01}, 2); // zlib: deflate, 32 kB window, fastest
        at += 2;
    }
    uint16_t length = bytes + 1, inverted = ~length;
    memcpy(at, (uint8_t[]){last, length & 0xff, length >> 8, inverted & 0xff, inverted >> 8}, 5);
    at += 5;
    at[0] = 0; // the row is not filtered
    memcpy(at + 1, pixels, bytes);
    *adler = adler_of(*adler, at, length);
    at += length;
    if (last) {
        at = put_u32(at, *adler);
    }
    write_chunk(file, chunk, at);
}

static void write_end(FILE *file) {
    uint8_t chunk[8 + 4];
    write_chunk(file, chunk, begin_chunk(chunk, "IEND"));
    if (fclose(file) == EOF) {
        die(POSTER);
    }
}

int main(int argc, char **argv) {
    int edge = argc == 2 ? atoi(argv[1]) : 0;
    if (edge < 1 || edge > EDGE_MAX) {
        fputs("usage: stitch EDGE, with 1 <= EDGE <= 32\n", stderr);
        return 1;
    }
    uint16_t row_bytes = (uint16_t)(edge * TILE * 3);
    uint8_t *band = malloc(TILE * row_bytes);
    if (band == NULL) {
        die("cannot hold a row of tiles");
    }
    FILE *file = fopen(POSTER, "wb");
    if (file == NULL) {
        die(POSTER);
    }
    uint32_t adler = 1;
    write_head(file, (uint32_t)(edge * TILE));
    for (int y = 0; y < edge; y++) {
        for (int x = 0; x < edge; x++) {
            read_tile(band, x, y, edge);
        }
        for (int row = 0; row < TILE; row++) {
            bool first = y == 0 && row == 0, last = y == edge - 1 && row == TILE - 1;
            write_row(file, band + row * row_bytes, row_bytes, first, last, &adler);
        }
    }
    write_end(file);
    return 0;
}
