/* A wall clock that is off by a number of seconds while a file is there. Preload it; see injectors.py.

   Waits that have an end by the wall clock last until this clock is there: they look at it every few milliseconds, so
   that one who waits meets a clock that is set, as from the kernel. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define REAL(result, name, ...)                                              \
  static result (*real)(__VA_ARGS__);                                        \
  if (!real) real = dlvsym(RTLD_NEXT, name, "GLIBC_2.3.2"); /* condition variables have an older form, too */ \
  if (!real) real = dlsym(RTLD_NEXT, name)

static const long steps[] = {STEPS};

static int read_clock(clockid_t id, struct timespec *ts) {
  REAL(int, "clock_gettime", clockid_t, struct timespec *);
  return real(id, ts);
}

static long step(void) {
  struct timespec now;
  if (access(FLAG, F_OK)) return 0;
  read_clock(CLOCK_MONOTONIC, &now);
  unsigned long period = (unsigned long)(now.tv_sec * 1000 + now.tv_nsec / 1000000) / PERIOD_MS + SEED;
  return steps[period * 2654435761UL % 4294967296UL % (sizeof steps / sizeof *steps)];
}

int clock_gettime(clockid_t id, struct timespec *ts) {
  int failed = read_clock(id, ts);
  if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) ts->tv_sec += step();
  return failed;
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone) {
  struct timespec ts;
  (void)zone;
  int failed = clock_gettime(CLOCK_REALTIME, &ts);
  tv->tv_sec = ts.tv_sec;
  tv->tv_usec = ts.tv_nsec / 1000;
  return failed;
}

time_t time(time_t *out) {
  struct timespec ts;
  clock_gettime(CLOCK_REALTIME, &ts);
  if (out) *out = ts.tv_sec;
  return ts.tv_sec;
}

/* Whether a wait's end is a moment of the wall clock: the other clocks begin with the machine's start. */
static int is_wall(const struct timespec *end) { return end->tv_sec > 500000000; }

static int is_over(const struct timespec *end) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec > end->tv_sec || (now.tv_sec == end->tv_sec && now.tv_nsec >= end->tv_nsec);
}

/* The kernel's time in 20 ms. */
static struct timespec soon(void) {
  struct timespec now;
  read_clock(CLOCK_REALTIME, &now);
  now.tv_nsec += 20000000;
  if (now.tv_nsec >= 1000000000) now.tv_sec++, now.tv_nsec -= 1000000000;
  return now;
}

int pthread_mutex_timedlock(pthread_mutex_t *restrict mutex, const struct timespec *restrict end) {
  REAL(int, "pthread_mutex_timedlock", pthread_mutex_t *, const struct timespec *);
  if (!is_wall(end)) return real(mutex, end);
  for (;;) {
    struct timespec slice = soon();
    int failed = real(mutex, &slice);
    if (failed != ETIMEDOUT || is_over(end)) return failed;
  }
}

int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict end) {
  REAL(int, "pthread_cond_timedwait", pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
  if (!is_wall(end)) return real(cond, mutex, end);
  for (;;) {
    struct timespec slice = soon();
    int failed = real(cond, mutex, &slice);
    if (failed != ETIMEDOUT || is_over(end)) return failed;
  }
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict end) {
  REAL(int, "sem_timedwait", sem_t *, const struct timespec *);
  if (!is_wall(end)) return real(semaphore, end);
  for (;;) {
    struct timespec slice = soon();
    if (!real(semaphore, &slice)) return 0;
    if (errno != ETIMEDOUT || is_over(end)) return -1;
  }
}
