/* Launch jobs of changing sizes in quick succession, each with its own record of which tasks ran. */
typedef struct {
  void *sync_handle;
  int tasks;
} Group;
typedef int (*Lambda)(int task, Group *group, void *data);
typedef int (*Launch)(Lambda function, void *data, int tasks);

enum { MOST = 64 };
typedef struct {
  int tasks;
  unsigned ran[MOST];
} Job;

static unsigned strays;

static int note(int task, Group *group, void *data) {
  Job *job = data;
  if (task < 0 || task >= job->tasks || group->tasks != job->tasks) __atomic_fetch_add(&strays, 1, __ATOMIC_SEQ_CST);
  else __atomic_fetch_add(&job->ran[task], 1, __ATOMIC_SEQ_CST);
  for (volatile int wait = 0; wait < 20 * (task & 3); wait++) {}
  return 0;
}

/* How many tasks did not run exactly once, or with another job's numbers, in `rounds` launches. */
unsigned stress(Launch launch, int rounds) {
  static Job jobs[4];
  unsigned wrong = 0;
  strays = 0;
  for (int round = 0; round < rounds; round++) {
    Job *job = &jobs[round & 3];
    job->tasks = round % 3 ? 2 + round % 7 : MOST;
    for (int task = 0; task < MOST; task++) job->ran[task] = 0;
    launch(note, job, job->tasks);
    for (int task = 0; task < job->tasks; task++) wrong += __atomic_load_n(&job->ran[task], __ATOMIC_SEQ_CST) != 1;
  }
  return wrong + __atomic_load_n(&strays, __ATOMIC_SEQ_CST);
}
