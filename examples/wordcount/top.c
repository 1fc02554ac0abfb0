// Merges the counts of all texts and names the most frequent words.
//
// Reads every file in /in/parts, each as count.c writes it: lines "word count".
// Writes the 20 most frequent words to stdout as "COUNT WORD", by count descending, then by word ascending;
// and the counts of all words to /out/all.txt, in the form of the parts.
// Exits with 0, or with 1 and a line on stderr when there are no parts, when one cannot be read or has a line of
// another form, or when a result cannot be written.

#include <dirent.h>

#include "words.h"

#define PARTS "/in/parts"
#define TOP 20

static void add_line(struct words *words, char *line, const char *path) {
    char *space = line + strspn(line, "abcdefghijklmnopqrstuvwxyz");
    size_t digits = *space == ' ' ? strspn(space + 1, "0123456789") : 0;
    if (space == line || digits == 0 || strcmp(space + 1 + digits, "\n") != 0) {
        fprintf(stderr, "%s: has a line that is not \"word count\"\n", path);
        exit(1);
    }
    *space = '\0';
    words_add(words, line, strtoull(space + 1, NULL, 10));
}

static void add_part(struct words *words, const char *path) {
    FILE *part = fopen(path, "r");
    if (part == NULL) {
        die(path);
    }
    char *line = NULL;
    size_t capacity = 0;
    while (getline(&line, &capacity, part) != -1) {
        add_line(words, line, path);
    }
    if (!feof(part)) { // an error of the file, or no memory for the line
        die(path);
    }
    free(line);
    fclose(part);
}

// Adds every part and returns how many there were. The order of a directory does not matter: adding commutes.
static size_t add_parts(struct words *words) {
    DIR *parts = opendir(PARTS);
    if (parts == NULL) {
        die(PARTS);
    }
    size_t added = 0;
    struct dirent *entry;
    while (errno = 0, (entry = readdir(parts)) != NULL) {
        if (entry->d_name[0] == '.') {
            continue;
        }
        char path[sizeof PARTS + 256];
        snprintf(path, sizeof path, PARTS "/%s", entry->d_name);
        add_part(words, path);
        added++;
    }
    if (errno != 0) {
        die(PARTS);
    }
    closedir(parts);
    return added;
}

static int by_count(const void *left, const void *right) {
    uint64_t a = ((const struct entry *)left)->count, b = ((const struct entry *)right)->count;
    return a != b ? (a < b ? 1 : -1) : by_word(left, right);
}

static void print_top(const struct words *words) {
    struct entry *sorted = words_sorted(words, by_count);
    for (size_t i = 0; i < words->used && i < TOP; i++) {
        printf("%" PRIu64 " %s\n", sorted[i].count, sorted[i].word);
    }
    free(sorted);
    if (fflush(stdout) == EOF || ferror(stdout)) {
        die("stdout");
    }
}

int main(void) {
    struct words words = {0};
    if (add_parts(&words) == 0) {
        fputs(PARTS ": has no files\n", stderr);
        return 1;
    }
    words_write(&words, "/out/all.txt");
    print_top(&words);
    return 0;
}
