// Words and how often each was seen; shared by count.c and top.c.
//
// A hash table with open addressing that doubles when two thirds full, so that adding n words takes O(n) and
// writing them sorted O(n log n). Words may be of any length: memory is the only limit.
// Everything here ends the program with code 1 and one line on stderr when it cannot do its work.

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct entry {
    char *word; // NULL: a free slot
    uint64_t count;
};

struct words {
    struct entry *slots;
    size_t capacity; // zero or a power of two
    size_t used;
};

// Ends the program: "what: why", where `why` is what errno says.
_Noreturn static void die(const char *what) {
    perror(what);
    exit(1);
}

static void *checked(void *memory) {
    if (memory == NULL) {
        errno = ENOMEM;
        die("cannot hold the words");
    }
    return memory;
}

// FNV-1a, 32 bits: http://www.isthe.com/chongo/tech/comp/fnv/
static uint32_t hash_of(const char *word) {
    uint32_t hash = 2166136261u;
    for (; *word != '\0'; word++) {
        hash = (hash ^ (unsigned char)*word) * 16777619u;
    }
    return hash;
}

// The slot that holds `word`, or the free slot where it belongs.
static struct entry *slot_of(const struct words *words, const char *word) {
    size_t at = hash_of(word) & (words->capacity - 1);
    while (words->slots[at].word != NULL && strcmp(words->slots[at].word, word) != 0) {
        at = (at + 1) & (words->capacity - 1);
    }
    return &words->slots[at];
}

static void grow(struct words *words) {
    struct words bigger = {.capacity = words->capacity == 0 ? 1024 : words->capacity * 2, .used = words->used};
    bigger.slots = checked(calloc(bigger.capacity, sizeof *bigger.slots));
    for (size_t i = 0; i < words->capacity; i++) {
        if (words->slots[i].word != NULL) {
            *slot_of(&bigger, words->slots[i].word) = words->slots[i];
        }
    }
    free(words->slots);
    *words = bigger;
}

static void words_add(struct words *words, const char *word, uint64_t times) {
    if (words->used >= words->capacity / 3 * 2) {
        grow(words);
    }
    struct entry *entry = slot_of(words, word);
    if (entry->word == NULL) {
        entry->word = checked(strdup(word));
        words->used++;
    }
    entry->count += times;
}

// All entries in a new array, in the order `compare` gives.
static struct entry *words_sorted(const struct words *words, int (*compare)(const void *, const void *)) {
    struct entry *sorted = checked(malloc((words->used + 1) * sizeof *sorted));
    size_t n = 0;
    for (size_t i = 0; i < words->capacity; i++) {
        if (words->slots[i].word != NULL) {
            sorted[n++] = words->slots[i];
        }
    }
    qsort(sorted, n, sizeof *sorted, compare);
    return sorted;
}

static int by_word(const void *left, const void *right) {
    return strcmp(((const struct entry *)left)->word, ((const struct entry *)right)->word);
}

// Writes one "word count" line for every word, sorted by word.
static void words_write(const struct words *words, const char *path) {
    FILE *file = fopen(path, "w");
    if (file == NULL) {
        die(path);
    }
    struct entry *sorted = words_sorted(words, by_word);
    for (size_t i = 0; i < words->used; i++) {
        if (fprintf(file, "%s %" PRIu64 "\n", sorted[i].word, sorted[i].count) < 0) {
            die(path);
        }
    }
    free(sorted);
    if (fclose(file) == EOF) {
        die(path);
    }
}
