// The smallest guest: prints one line.
//
// Reads nothing. Writes a greeting to stdout.
// Exits with 0, or with 1 and a line on stderr when stdout cannot be written.

#include <stdio.h>

int main(void) {
    if (puts("Hello from the swarm!") == EOF || fflush(stdout) == EOF) {
        perror("hello: cannot write stdout");
        return 1;
    }
    return 0;
}
