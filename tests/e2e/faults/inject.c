/* inject N PROGRAM [ARGUMENT...]: run a program, and all that it starts, with
 * every N-th call that moves bytes or waits cut short: in turn it fails with
 * EINTR, or moves fewer bytes than it was asked to. Both may happen to any
 * program at any time; one that takes this for an error is wrong.
 *
 * A seccomp filter hands the calls to this tracer. Calls on the raw kernel
 * interface are caught as well as the C library's. The status is the program's;
 * the tracer goes on behind it for as long as something that it started runs.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

/* What a call is about: bytes or pieces of a descriptor, in the third argument,
 * a descriptor in the first, or neither. */
enum kind { BYTES, PIECES, DESCRIPTOR, WAITS };
static const struct call {
  int number;
  enum kind kind;
} calls[] = {
    {SYS_read, BYTES},         {SYS_write, BYTES},     {SYS_pread64, BYTES},
    {SYS_pwrite64, BYTES},     {SYS_recvfrom, BYTES},  {SYS_sendto, BYTES},
    {SYS_readv, PIECES},       {SYS_writev, PIECES},   {SYS_preadv, PIECES},
    {SYS_pwritev, PIECES},     {SYS_preadv2, PIECES},  {SYS_pwritev2, PIECES},
    {SYS_recvmsg, DESCRIPTOR}, {SYS_sendmsg, DESCRIPTOR},
    {SYS_fsync, DESCRIPTOR},   {SYS_fdatasync, DESCRIPTOR},
    {SYS_fallocate, DESCRIPTOR}, {SYS_accept4, WAITS}, {SYS_poll, WAITS},
    {SYS_ppoll, WAITS},        {SYS_epoll_wait, WAITS}, {SYS_epoll_pwait, WAITS},
};
enum { CALLS = sizeof calls / sizeof *calls };

static void die(const char *what) {
  perror(what);
  exit(125);
}

static void filter(void) {
  struct sock_filter program[CALLS + 4];
  int n = 0;
  program[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                                              offsetof(struct seccomp_data, nr));
  for (int i = 0; i < CALLS; i++)
    program[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
                                                calls[i].number, CALLS - i, 0);
  program[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  program[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE);
  struct sock_fprog whole = {n, program};
  /* As root: no_new_privs would change what is under test. */
  if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &whole))
    die("inject: seccomp");
}

/* A file, a pipe or a stream: bytes of it may come in pieces, and a call may be
 * interrupted. An eventfd or a message gives all or nothing, at once. */
static int is_stream(pid_t pid, int fd) {
  char path[64], target[256];
  snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, fd);
  ssize_t n = readlink(path, target, sizeof target - 1);
  if (n < 0)
    return 0;
  target[n] = 0;
  if (!strncmp(target, "pipe:", 5))
    return 1;
  if (!strncmp(target, "socket:", 7)) {
    int process = syscall(SYS_pidfd_open, pid, 0), type = 0;
    socklen_t size = sizeof type;
    int copy = process < 0 ? -1 : syscall(SYS_pidfd_getfd, process, fd, 0);
    if (copy >= 0)
      getsockopt(copy, SOL_SOCKET, SO_TYPE, &type, &size);
    close(copy);
    close(process);
    return type == SOCK_STREAM;
  }
  /* What the kernel makes up takes a write as a whole: half a limit of a group is
   * another limit. The loader of libraries takes no interruption. */
  return target[0] == '/' && !strstr(target, ".so") && strncmp(target, "/dev/", 5) &&
         strncmp(target, "/proc/", 6) && strncmp(target, "/sys/", 5);
}

/* The thread's process, whose descriptors they are. */
static pid_t process_of(pid_t thread) {
  char path[64], line[128];
  pid_t pid = thread;
  snprintf(path, sizeof path, "/proc/%d/status", thread);
  FILE *file = fopen(path, "r");
  while (file && fgets(line, sizeof line, file))
    if (sscanf(line, "Tgid: %d", &pid) == 1)
      break;
  if (file)
    fclose(file);
  return pid;
}

static long every, seen, done;
/* What a thread's argument was before it was made smaller. */
static struct { pid_t pid; unsigned long long rdx; } cut[4096];

/* At the entry of a call; true when its exit matters. */
static int disturb(pid_t pid) {
  struct user_regs_struct regs;
  if (++seen % every || ptrace(PTRACE_GETREGS, pid, 0, &regs))
    return 0;
  const struct call *call = NULL;
  for (int i = 0; i < CALLS; i++)
    if (calls[i].number == (int)regs.orig_rax)
      call = &calls[i];
  if (!call || (call->kind != WAITS && !is_stream(process_of(pid), regs.rdi)))
    return 0;
  if (done % 2 && call->kind <= PIECES && regs.rdx > 1) {
    for (int i = 0; i < 4096; i++)
      if (!cut[i].pid) {
        cut[i].pid = pid;
        cut[i].rdx = regs.rdx;
        regs.rdx = call->kind == PIECES ? 1 : (regs.rdx + 1) / 2;
        ptrace(PTRACE_SETREGS, pid, 0, &regs);
        done++;
        return 1;
      }
  }
  regs.orig_rax = -1;
  regs.rax = -EINTR;
  ptrace(PTRACE_SETREGS, pid, 0, &regs);
  done++;
  return 0;
}

/* At the exit of a call that was made smaller: the caller's register is its own. */
static void restore(pid_t pid) {
  struct user_regs_struct regs;
  for (int i = 0; i < 4096; i++)
    if (cut[i].pid == pid) {
      cut[i].pid = 0;
      if (!ptrace(PTRACE_GETREGS, pid, 0, &regs)) {
        regs.rdx = cut[i].rdx;
        ptrace(PTRACE_SETREGS, pid, 0, &regs);
      }
    }
}

static void trace(pid_t child, int result) {
  const long options = PTRACE_O_TRACESECCOMP | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK |
                       PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC | PTRACE_O_TRACESYSGOOD |
                       PTRACE_O_EXITKILL;
  int status;
  if (waitpid(child, &status, __WALL) != child || !WIFSTOPPED(status) ||
      ptrace(PTRACE_SETOPTIONS, child, 0, options))
    die("inject: ptrace");
  ptrace(PTRACE_CONT, child, 0, 0);
  for (pid_t pid; (pid = waitpid(-1, &status, __WALL)) > 0;) {
    if (!WIFSTOPPED(status)) {
      if (pid == child) {
        int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        if (write(result, &code, sizeof code) != sizeof code)
          exit(125);
        close(result);
      }
      continue;
    }
    int signal = WSTOPSIG(status), event = status >> 16;
    if (event == PTRACE_EVENT_SECCOMP) {
      int wait = disturb(pid);
      ptrace(wait ? PTRACE_SYSCALL : PTRACE_CONT, pid, 0, 0);
      continue;
    }
    if (signal == (SIGTRAP | 0x80)) {
      restore(pid);
      signal = 0;
    } else if (event || signal == SIGTRAP) {
      signal = 0;
    } else if (signal == SIGSTOP) {
      /* A new thread or process begins with one. */
      signal = 0;
    }
    ptrace(PTRACE_CONT, pid, 0, signal);
  }
}

int main(int argc, char **argv) {
  int result[2], code = 125;
  if (argc < 3 || (every = atol(argv[1])) < 1 || pipe2(result, O_CLOEXEC)) {
    fprintf(stderr, "usage: inject N PROGRAM [ARGUMENT...]\n");
    return 125;
  }
  pid_t tracer = fork();
  if (tracer < 0)
    die("inject: fork");
  if (tracer) {
    close(result[1]);
    return read(result[0], &code, sizeof code) == sizeof code ? code : 125;
  }
  pid_t child = fork();
  if (child < 0)
    die("inject: fork");
  if (!child) {
    if (ptrace(PTRACE_TRACEME, 0, 0, 0))
      die("inject: traceme");
    raise(SIGSTOP);
    filter();
    execvp(argv[2], argv + 2);
    die(argv[2]);
  }
  close(result[0]);
  /* Whoever waits for the end of the program's output does not wait for this. */
  int null = open("/dev/null", O_RDWR);
  for (int fd = 0; fd < 3; fd++)
    dup2(null, fd);
  setsid();
  trace(child, result[1]);
  return 0;
}
