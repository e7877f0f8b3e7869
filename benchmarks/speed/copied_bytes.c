/* Counts the bytes that memcpy and memmove copy, by caller: preload the library, and name a folder in COPIED_BYTES.

   At its end each process writes a file there, of its process id, with a line for each place in the code that copied:
   bytes, calls, file of the library or program, and the name of the function where it has one. A process that wants to
   know earlier calls copied_bytes(). */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SMALLEST = 256, PLACES = 1 << 14 }; /* smaller copies are those of objects, not of tensors */

static struct {
    _Atomic(void *) caller;
    atomic_ullong bytes, calls;
} places[PLACES];

static void count(void *caller, size_t size)
{
    size_t at = ((uintptr_t)caller >> 1) % PLACES;
    for (size_t tried = 0; tried < PLACES; tried++, at = (at + 1) % PLACES) {
        void *found = NULL;
        if (atomic_load(&places[at].caller) == caller ||
            atomic_compare_exchange_strong(&places[at].caller, &found, caller) || found == caller) {
            atomic_fetch_add(&places[at].bytes, size);
            atomic_fetch_add(&places[at].calls, 1);
            return;
        }
    }
}

/* Bytes of all copies so far. */
unsigned long long copied_bytes(void)
{
    unsigned long long sum = 0;
    for (size_t i = 0; i < PLACES; i++)
        sum += atomic_load(&places[i].bytes);
    return sum;
}

/* Loops of their own: the library must not call the functions that it replaces. */
static void forwards(char *to, const char *from, size_t size)
{
    for (size_t i = 0; i < size; i++)
        to[i] = from[i];
}

void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
    forwards(to, from, size);
    if (size >= SMALLEST)
        count(__builtin_return_address(0), size);
    return to;
}

void *memmove(void *to, const void *from, size_t size)
{
    if ((uintptr_t)to - (uintptr_t)from >= size)
        forwards(to, from, size);
    else
        for (size_t i = size; i > 0; i--)
            ((char *)to)[i - 1] = ((const char *)from)[i - 1];
    if (size >= SMALLEST)
        count(__builtin_return_address(0), size);
    return to;
}

__attribute__((destructor)) static void report(void)
{
    const char *folder = getenv("COPIED_BYTES");
    char name[4096];
    if (!folder || snprintf(name, sizeof name, "%s/%d", folder, (int)getpid()) >= (int)sizeof name)
        return;
    FILE *file = fopen(name, "w");
    if (!file)
        return;
    for (size_t i = 0; i < PLACES; i++) {
        Dl_info info;
        if (!places[i].caller || !dladdr(places[i].caller, &info))
            continue;
        fprintf(file, "%llu\t%llu\t%s\t%s\n", (unsigned long long)places[i].bytes, (unsigned long long)places[i].calls,
                info.dli_fname, info.dli_sname ? info.dli_sname : "");
    }
    fclose(file);
}

/* The GPU services end with os._exit, which runs no destructor. */
_Noreturn void _exit(int status)
{
    report();
    syscall(SYS_exit_group, status);
    __builtin_unreachable();
}
