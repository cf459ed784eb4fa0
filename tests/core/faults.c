// Loaded before libc by test_faults.py: counts the calls that change a file below FAULT_UNDER, in this process, and at
// call number FAULT_AT kills it (FAULT_KIND=kill) or has it and all that follow find a full disk (FAULT_KIND=full).
// With FAULT_LOG each call is a line of that file. TensorBoard's events, which are a view, are not counted.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static long calls;
static pid_t counted;

static int fault(const char *call, const char *path) {
    const char *under = getenv("FAULT_UNDER"), *at = getenv("FAULT_AT"), *log = getenv("FAULT_LOG");
    char whole[2 * PATH_MAX];
    if (!under || !path) return 0;
    if (path[0] != '/') {
        if (!getcwd(whole, PATH_MAX)) return 0;
        strcat(whole, "/");
        strncat(whole, path, PATH_MAX - 1);
        path = whole;
    }
    if (!strstr(path, under) || strstr(path, "tfevents")) return 0;
    if (counted != getpid()) calls = 0, counted = getpid();  // a fork counts from 0
    calls++;
    if (log) {
        char line[3 * PATH_MAX];
        int length = snprintf(line, sizeof line, "%d %ld %s %s\n", getpid(), calls, call, path);
        int file = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND, 0644);
        syscall(SYS_write, file, line, length);
        syscall(SYS_close, file);
    }
    if (!at || calls < atol(at)) return 0;
    if (!strcmp(getenv("FAULT_KIND"), "kill")) kill(getpid(), SIGKILL);
    errno = ENOSPC;
    return 1;
}

static int fault_at(const char *call, int file) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return fault(call, path);
}

#define REAL(name) __typeof__(&name) real = dlsym(RTLD_NEXT, #name)

static int creates(int flags) { return flags & (O_CREAT | O_TRUNC); }

#define OPEN(name)                                                                    \
    int name(const char *path, int flags, ...) {                                      \
        int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, #name);                \
        va_list more;                                                                 \
        va_start(more, flags);                                                        \
        mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;                     \
        va_end(more);                                                                 \
        return creates(flags) && fault("open", path) ? -1 : real(path, flags, mode);  \
    }
OPEN(open)
OPEN(open64)

ssize_t write(int file, const void *bytes, size_t count) {
    REAL(write);
    return file > 2 && fault_at("write", file) ? -1 : real(file, bytes, count);
}
int fsync(int file) {
    REAL(fsync);
    return fault_at("fsync", file) ? -1 : real(file);
}
int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    return fault("mkdir", path) ? -1 : real(path, mode);
}
int symlink(const char *target, const char *path) {
    REAL(symlink);
    return fault("symlink", path) ? -1 : real(target, path);
}
// A full disk renames and removes all the same.
int rename(const char *from, const char *to) {
    REAL(rename);
    fault("rename", to);
    return real(from, to);
}
int unlink(const char *path) {
    REAL(unlink);
    fault("unlink", path);
    return real(path);
}
int unlinkat(int folder, const char *path, int flags) {
    REAL(unlinkat);
    folder == AT_FDCWD || path[0] == '/' ? fault("unlink", path) : fault_at("unlink", folder);
    return real(folder, path, flags);
}
int rmdir(const char *path) {
    REAL(rmdir);
    fault("rmdir", path);
    return real(path);
}
