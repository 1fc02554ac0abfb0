// The smallest task there is: does nothing and succeeds. A guest of swarm; compiled for the machine itself, a task of HyperQueue.

int main(void) { return 0; }
