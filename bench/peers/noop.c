// The smallest task there is: does nothing and succeeds. A guest of swarm or, compiled for the machine, a task of
// HyperQueue.

int main(void) { return 0; }
