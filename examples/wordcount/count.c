// Counts the words of one text.
//
// Usage: count [FILE [PASSES]]
// Reads the text from stdin, or from FILE (such as /in/text) when one is given. With PASSES it reads FILE that many times
// and counts the last: the same result, slower, for those who want to watch a swarm at work. A word is a run of ASCII letters,
// lower-cased; every other byte separates words.
// Writes /out/counts.txt: one line "word count" for every word, sorted by word. A text without words gives an empty file.
// Exits with 0, or with 1 and a line on stderr when the text cannot be read or the counts cannot be written.

#include "words.h"

struct letters {
    char *text;
    size_t length, capacity;
};

static void push(struct letters *letters, char letter) {
    if (letters->length == letters->capacity) {
        letters->capacity = letters->capacity == 0 ? 64 : letters->capacity * 2;
        letters->text = checked(realloc(letters->text, letters->capacity));
    }
    letters->text[letters->length++] = letter;
}

static void count_words(FILE *text, struct words *words, uint64_t times) {
    struct letters word = {0};
    int byte;
    do {
        byte = getc(text);
        int lower = byte >= 'A' && byte <= 'Z' ? byte - 'A' + 'a' : byte;
        if (lower >= 'a' && lower <= 'z') {
            push(&word, (char)lower);
        } else if (word.length > 0) {
            push(&word, '\0');
            words_add(words, word.text, times);
            word.length = 0;
        }
    } while (byte != EOF);
    free(word.text);
}

int main(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "stdin";
    FILE *text = argc > 1 ? fopen(name, "r") : stdin;
    if (text == NULL) {
        die(name);
    }
    struct words words = {0};
    for (long passes = argc > 2 ? atol(argv[2]) : 1; passes > 1; passes--) {
        count_words(text, &words, 0);
        rewind(text);
    }
    count_words(text, &words, 1);
    if (ferror(text)) {
        die(name);
    }
    words_write(&words, "/out/counts.txt");
    return 0;
}
