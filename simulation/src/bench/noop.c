// The guest that does nothing, in the shape of a small real program: it reads its arguments, and it has data, a heap and
// a buffered stream that it would use if there were something to say. Its stack is 1 MiB, as a Rust program's: memory
// that is touched far apart is what an instance costs.
//
// Exits with 0; with 1 and a line on stderr when it is given arguments.
//
// Built by examples/Makefile, which also checks the committed bytes.

#include <stdio.h>

int main(int argc, char **argv) {
    if (argc > 1) {
        fprintf(stderr, "%s: takes no arguments\n", argv[0]);
        return 1;
    }
    return 0;
}
