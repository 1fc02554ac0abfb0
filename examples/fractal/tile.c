// Renders one square tile of a picture of the Mandelbrot set.
//
// Usage: tile X Y EDGE
// The picture is EDGE by EDGE tiles; X counts columns from the left, Y rows from the top, both from 0.
// Writes /out/tile.ppm: a binary PPM (P6) of 256 by 256 pixels.
// Exits with 0, or with 1 and a line on stderr when the arguments make no sense or the file cannot be written.
//
// Every machine must give the same bytes: only + - * / and comparisons of doubles, which IEEE 754 and WebAssembly
// define to the last bit. Nothing from libm, whose results are its own affair.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define TILE 256       // pixels along the edge of a tile
#define SAMPLES 2      // samples along the edge of a pixel, averaged
#define STEPS_MAX 1000 // a point that has not escaped by then counts as inside
#define ESCAPE 65536.0 // |z|^2 from which a point has escaped: 2^16, large so that the colours have no steps

// The picture: its centre and the length of its edge in the complex plane.
#define CENTRE_RE -0.7435
#define CENTRE_IM 0.1314
#define SPAN 0.004

struct colour {
    double red, green, blue;
};

// A linear approximation of log2 for x >= 1, exact at powers of two and continuous between them.
static double log2_about(double x) {
    double power = 0;
    while (x >= 2) {
        x *= 0.5;
        power += 1;
    }
    return power + (x - 1);
}

// After how many steps z -> z*z + c leaves the circle, with a fraction, so that neighbours differ little;
// negative when it stays inside.
static double escape_time(double re, double im) {
    double x = 0, y = 0, xx = 0, yy = 0;
    for (int step = 0; step < STEPS_MAX; step++) {
        y = 2 * x * y + im;
        x = xx - yy + re;
        xx = x * x;
        yy = y * y;
        if (xx + yy >= ESCAPE) {
            // |z|^2 is now between 2^16 and about 2^32: the further out, the earlier it really escaped.
            return step + 1 - log2_about(log2_about(xx + yy) / 16);
        }
    }
    return -1;
}

// The colours repeat: dark blue, blue, white, gold, brown, black and again dark blue.
static struct colour colour_of(double time) {
    static const struct colour palette[] = {
        {0, 7, 100}, {32, 107, 203}, {237, 255, 255}, {255, 170, 0}, {110, 45, 0}, {0, 2, 15},
    };
    enum { COLOURS = sizeof palette / sizeof palette[0] };
    if (time < 0) {
        return (struct colour){0, 0, 0};
    }
    double position = time / 24;
    int whole = (int)position;
    double part = position - whole;
    struct colour from = palette[whole % COLOURS], to = palette[(whole + 1) % COLOURS];
    return (struct colour){
        from.red + (to.red - from.red) * part,
        from.green + (to.green - from.green) * part,
        from.blue + (to.blue - from.blue) * part,
    };
}

static void render(uint8_t *pixels, int tile_x, int tile_y, int edge) {
    double step = SPAN / ((double)edge * TILE * SAMPLES);
    double left = CENTRE_RE - SPAN / 2, top = CENTRE_IM + SPAN / 2;
    for (int row = 0; row < TILE; row++) {
        for (int column = 0; column < TILE; column++) {
            struct colour sum = {0, 0, 0};
            for (int i = 0; i < SAMPLES * SAMPLES; i++) {
                int sample_x = (tile_x * TILE + column) * SAMPLES + i % SAMPLES;
                int sample_y = (tile_y * TILE + row) * SAMPLES + i / SAMPLES;
                struct colour one = colour_of(escape_time(left + sample_x * step, top - sample_y * step));
                sum.red += one.red;
                sum.green += one.green;
                sum.blue += one.blue;
            }
            *pixels++ = (uint8_t)(sum.red / (SAMPLES * SAMPLES));
            *pixels++ = (uint8_t)(sum.green / (SAMPLES * SAMPLES));
            *pixels++ = (uint8_t)(sum.blue / (SAMPLES * SAMPLES));
        }
    }
}

int main(int argc, char **argv) {
    static uint8_t pixels[TILE * TILE * 3];
    int x = argc == 4 ? atoi(argv[1]) : -1, y = argc == 4 ? atoi(argv[2]) : -1, edge = argc == 4 ? atoi(argv[3]) : 0;
    if (x < 0 || y < 0 || edge > 32 || x >= edge || y >= edge) {
        fputs("usage: tile X Y EDGE, with 0 <= X, Y < EDGE <= 32\n", stderr);
        return 1;
    }
    render(pixels, x, y, edge);
    FILE *file = fopen("/out/tile.ppm", "wb");
    if (file == NULL || fputs("P6\n256 256\n255\n", file) == EOF || fwrite(pixels, sizeof pixels, 1, file) != 1 || fclose(file) == EOF) {
        perror("/out/tile.ppm");
        return 1;
    }
    return 0;
}
