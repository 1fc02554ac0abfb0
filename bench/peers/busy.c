// A task that keeps a core busy.
//
// On the machine itself: `busy MS` looks at the clock until MS milliseconds have gone by.
// As a guest: `busy ROUNDS` steps a generator so often, because a guest's clock is not the machine's; whoever starts it
// has measured how many rounds a millisecond has.
// Exits with 0, or with 2 when the argument is missing.

#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#ifdef __wasi__
// Knuth's generator: every step needs the one before. All states but one give 0, and that one no task reaches.
static int keep_busy(uint64_t rounds) {
    uint64_t state = rounds;
    for (uint64_t round = 0; round < rounds; round++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
    }
    return state == 0;
}
#else
static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int keep_busy(uint64_t ms) {
    uint64_t end = now_ns() + ms * 1000000u;
    while (now_ns() < end) {
    }
    return 0;
}
#endif

int main(int argc, char **argv) {
    if (argc != 2) {
        return 2;
    }
    return keep_busy(strtoull(argv[1], NULL, 10));
}
