/*
 * Turns an unmodified QEMU (TCG, one CPU) into a server of guests: preloaded, it stops the guest where the
 * kernel image says so, and forks QEMU for every request. See acpitk/qemu/forkserver.py, its only client.
 *
 * The guest speaks to it by writing to I/O ports BASE + n: n = START stops it for requests, any other n is an
 * end; n = ZERO takes a range to be zeroed. A request patches guest RAM and lets a copy run to an end, where the client may read guest RAM. Only
 * the CPU's thread lives in a copy, so it can go no further than the first interrupt; a halt is an end too.
 *
 * Everything taken from QEMU is an exported function and an opaque pointer; nothing depends on the layout
 * of its structures but that of MemoryRegionOps and Notifier, which have not changed in ten years.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096UL
enum { BASE = 0xe0, PORTS = 12, START = 0, ZERO = 8 };
enum { FORK = 1, WARM = 2, SET = 3, READ = 4, SEAL = 5 };       /* requests */
enum { READY = 1, END = 2, HALTED = 3, GONE = 4, FAILED = 5, HELLO = 6 };  /* answers */

struct request { uint32_t op, writes, cpu_ms, wall_ms; uint64_t size; };
struct write { uint64_t offset, size; };
struct answer { uint32_t kind, value; uint64_t detail; };

struct notifier { void (*notify)(struct notifier *, void *); void *links[2]; };
struct region_ops {
    uint64_t (*read)(void *, uint64_t, unsigned);
    void (*write)(void *, uint64_t, uint64_t, unsigned);
    void *rest[30];
};
typedef union { int i; unsigned long u; void *p; } cpu_data;

static void (*qemu_add_machine_init_done_notifier)(struct notifier *);
static void *(*get_system_io)(void);
static void (*memory_region_init_io)(void *, void *, const void *, void *, const char *, uint64_t);
static void (*memory_region_add_subregion)(void *, uint64_t, void *);
static void (*async_run_on_cpu)(void *, void (*)(void *, cpu_data), cpu_data);
static void *(*qemu_get_cpu)(int);
static int (*vmstate_save_state)(void *, const void *, void *, void *, void *);
static int (*vmstate_load_state)(void *, const void *, void *, int, void *);
static const void *vmstate_x86_cpu;
static void *(*qio_channel_buffer_new)(size_t);
static void *(*qemu_file_new_output)(void *);
static void *(*qemu_file_new_input)(void *);
static void (*qemu_fflush)(void *);
static int64_t (*qio_channel_io_seek)(void *, int64_t, int, void *);
static void (*tb_invalidate_phys_range)(uint64_t, uint64_t);
static void *(*qemu_ram_block_by_name)(const char *);
static void *(*qemu_ram_get_host_addr)(void *);
static uint64_t (*qemu_ram_get_offset)(void *);
static uint64_t (*qemu_ram_get_used_length)(void *);
static int (*qemu_ram_foreach_block)(int (*)(void *, void *), void *);
static void *(*cpu_physical_memory_map)(uint64_t, uint64_t *, bool);
static void (*cpu_physical_memory_unmap)(void *, uint64_t, bool, uint64_t);

#define SYMBOL(name) { #name, (void **)&name }
static const struct { const char *name; void **place; } symbols[] = {
    SYMBOL(qemu_add_machine_init_done_notifier), SYMBOL(get_system_io), SYMBOL(memory_region_init_io),
    SYMBOL(memory_region_add_subregion), SYMBOL(async_run_on_cpu), SYMBOL(qemu_get_cpu),
    SYMBOL(vmstate_save_state), SYMBOL(vmstate_load_state), { "vmstate_x86_cpu", (void **)&vmstate_x86_cpu },
    SYMBOL(qio_channel_buffer_new),
    SYMBOL(qemu_file_new_output), SYMBOL(qemu_file_new_input), SYMBOL(qemu_fflush),
    SYMBOL(qio_channel_io_seek), SYMBOL(tb_invalidate_phys_range), SYMBOL(qemu_ram_block_by_name),
    SYMBOL(qemu_ram_get_host_addr), SYMBOL(qemu_ram_get_offset), SYMBOL(qemu_ram_get_used_length),
    SYMBOL(qemu_ram_foreach_block), SYMBOL(cpu_physical_memory_map), SYMBOL(cpu_physical_memory_unmap),
};

static int client = -1;
static enum { BOOTING, STOPPED, WARMING, COPY } state;
static timer_t limits[2];
static char *ram;
static uint64_t ram_size, ram_offset;
static void *kept_cpu;                 /* QIOChannelBuffer: the CPU's state at the stop */
static unsigned char *kept_pages;      /* RAM at the stop: one bit a page ... */
static char *kept;                     /* ... and the pages whose bit is set, in order */

static void put(const void *data, size_t size)
{
    for (const char *at = data; size;) {
        ssize_t n = send(client, at, size, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            _exit(0);
        at += n, size -= n;
    }
}

static void get(void *data, size_t size)
{
    for (char *at = data; size;) {
        ssize_t n = recv(client, at, size, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            _exit(0);                  /* the client is gone, and so is everything it started */
        at += n, size -= n;
    }
}

static void answer(uint32_t kind, uint32_t value, uint64_t detail)
{
    struct answer a = { kind, value, detail };
    put(&a, sizeof a);
}

static void fail(const char *why)
{
    answer(FAILED, 0, strlen(why));
    put(why, strlen(why));
    _exit(1);
}

/* Pages of RAM the host has given memory to, by /proc/self/pagemap. */
static int populated(uint64_t first, uint64_t count, uint64_t *out)
{
    static int fd = -1;
    if (fd < 0 && (fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)) < 0)
        return -1;
    uint64_t at = ((uintptr_t)ram / PAGE + first) * 8;
    return pread(fd, out, count * 8, at) == (ssize_t)(count * 8) ? 0 : -1;
}

static int is_zero(const char *page)
{
    const uint64_t *w = (const uint64_t *)page;
    for (size_t i = 0; i < PAGE / 8; i++)
        if (w[i])
            return 0;
    return 1;
}

enum { BATCH = 4096 };
#define PRESENT(entry) ((entry) >> 62 & 3)     /* in memory or swapped */

static void keep_ram(void)
{
    uint64_t pages = ram_size / PAGE, batch[BATCH], used = 0, room = 0;
    free(kept_pages), free(kept), kept = NULL;
    kept_pages = calloc(1, pages / 8 + 1);
    for (uint64_t at = 0; at < pages; at += BATCH) {
        uint64_t n = pages - at < BATCH ? pages - at : BATCH;
        if (populated(at, n, batch))
            fail("/proc/self/pagemap cannot be read");
        for (uint64_t i = 0; i < n; i++) {
            char *page = ram + (at + i) * PAGE;
            if (!PRESENT(batch[i]) || is_zero(page))
                continue;
            if (used == room && !(kept = realloc(kept, (room = room ? 2 * room : 32768) * PAGE)))
                fail("no memory to keep the guest's RAM");
            memcpy(kept + used++ * PAGE, page, PAGE);
            kept_pages[(at + i) / 8] |= 1 << (at + i) % 8;
        }
    }
}

/* Huge pages go as a whole, or copies would get none in their place. */
static void forget(char *from, char *to)
{
    if (from < to)
        madvise(from, to - from, MADV_DONTNEED);
}

static void restore_ram(void)
{
    uint64_t pages = ram_size / PAGE, batch[BATCH], used = 0;
    for (uint64_t at = 0; at < pages; at += BATCH) {
        uint64_t n = pages - at < BATCH ? pages - at : BATCH;
        if (populated(at, n, batch))
            fail("/proc/self/pagemap cannot be read");
        char *from = ram + at * PAGE;
        for (uint64_t i = 0; i < n; i++) {
            char *page = ram + (at + i) * PAGE;
            uint64_t where = ram_offset + (at + i) * PAGE;
            if (kept_pages[(at + i) / 8] >> (at + i) % 8 & 1) {
                char *before = kept + used++ * PAGE;
                if (memcmp(page, before, PAGE)) {
                    memcpy(page, before, PAGE);
                    tb_invalidate_phys_range(where, where + PAGE);
                }
                forget(from, page);
                from = page + PAGE;
            } else if (PRESENT(batch[i]) && !is_zero(page))
                tb_invalidate_phys_range(where, where + PAGE);
        }
        forget(from, ram + (at + n) * PAGE);
    }
}

/* Devices are left as a run leaves them: up to its end the kernel only asks those it has set up itself. */
static void keep_cpu(void *cpu)
{
    kept_cpu = qio_channel_buffer_new(1 << 16);
    void *file = qemu_file_new_output(kept_cpu);
    if (vmstate_save_state(file, vmstate_x86_cpu, cpu, NULL, NULL))
        fail("QEMU cannot save the state of its CPU");
    qemu_fflush(file);
}

static void restore_cpu(void *cpu)
{
    enum { VERSION = 12 };             /* vmstate_x86_cpu's since 2010; a QEMU with another refuses */
    if (qio_channel_io_seek(kept_cpu, 0, SEEK_SET, NULL) < 0
        || vmstate_load_state(qemu_file_new_input(kept_cpu), vmstate_x86_cpu, cpu, VERSION, NULL))
        fail("QEMU cannot load the state of its CPU");
}

static void apply(const char *data, uint32_t writes)
{
    for (uint32_t i = 0; i < writes; i++) {
        struct write w;
        memcpy(&w, data, sizeof w);
        data += sizeof w;
        if (w.offset > ram_size || w.size > ram_size - w.offset)
            fail("a write beyond RAM");
        memcpy(ram + w.offset, data, w.size);
        tb_invalidate_phys_range(ram_offset + w.offset, ram_offset + w.offset + w.size);
        data += w.size;
    }
}

static void limit(uint32_t cpu_ms, uint32_t wall_ms)
{
    struct sigevent kill = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL };
    struct itimerspec in[2] = {
        { .it_value = { cpu_ms / 1000, cpu_ms % 1000 * 1000000L } },
        { .it_value = { wall_ms / 1000, wall_ms % 1000 * 1000000L } },
    };
    if (timer_create(CLOCK_PROCESS_CPUTIME_ID, &kill, &limits[0]) || timer_create(CLOCK_MONOTONIC, &kill, &limits[1])
        || timer_settime(limits[0], 0, &in[0], NULL) || timer_settime(limits[1], 0, &in[1], NULL))
        fail("a copy's time cannot be limited");
}

/* Sends what the client wants of RAM, until it wants nothing. */
static void reads(void)
{
    struct write want;
    for (get(&want, sizeof want); want.size; get(&want, sizeof want)) {
        if (want.offset > ram_size || want.size > ram_size - want.offset)
            fail("a read beyond RAM");
        put(ram + want.offset, want.size);
    }
}

/* At an end. Does not return in a copy. */
static void at_end(uint32_t kind, uint32_t value)
{
    if (state == COPY)
        for (int i = 0; i < 2; i++)
            timer_delete(limits[i]);
    answer(kind, value, 0);
    reads();
    if (state == COPY)
        _exit(0);
}

/* Waits for a copy, and says what it came to. */
static void follow(pid_t copy)
{
    int status = 0;
    struct rusage use = { 0 };
    while (wait4(copy, &status, 0, &use) < 0 && errno == EINTR)
        ;
    answer(GONE, status, (use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1000000ULL
                             + use.ru_utime.tv_usec + use.ru_stime.tv_usec);
}

/* A thread of the server: when the client is gone, so is the server, and by PR_SET_PDEATHSIG every copy. */
static void *watch(void *unused)
{
    struct pollfd on = { .fd = client, .events = POLLRDHUP };
    while (poll(&on, 1, -1) < 0 && errno == EINTR)
        ;
    _exit(0);
    return unused;
}

/* The CPU's thread between two instructions, QEMU's big lock held. Returns to let the guest run. */
static void serve(void *cpu, cpu_data unused)
{
    (void)unused;
    static char *data;
    static uint64_t room;
    if (state == BOOTING) {
        keep_cpu(cpu);
        keep_ram();
    } else {
        restore_ram();
        restore_cpu(cpu);
    }
    int again = state == WARMING;
    state = STOPPED;
    answer(again ? GONE : READY, 0, getpid());
    for (;;) {
        struct request r;
        get(&r, sizeof r);
        if (r.size > room && !(data = realloc(data, room = r.size)))
            fail("no memory for a request");
        get(data, r.size);
        if (r.op == SET) {
            apply(data, r.writes);
            keep_ram();
            answer(GONE, 0, 0);
            continue;
        }
        if (r.op == SEAL) {
            free(kept), free(kept_pages), kept = NULL, kept_pages = NULL;
            answer(GONE, 0, 0);
            continue;
        }
        if (r.op == READ) { /* of the stopped guest */
            reads();
            continue;
        }
        if (r.op == WARM) {
            state = WARMING;
            apply(data, r.writes);
            return;
        }
        pid_t server = getpid(), copy = fork();
        if (copy < 0)
            fail("fork failed");
        if (copy == 0) {
            state = COPY;
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (getppid() != server)
                _exit(0);
            apply(data, r.writes);
            limit(r.cpu_ms, r.wall_ms);
            return;
        }
        follow(copy);
    }
}

/* Whole pages are given back to the host, which gives out zeroed ones where they are ever touched. */
static void zero(uint64_t at, uint64_t size)
{
    while (size) {
        uint64_t room = size;
        char *start = cpu_physical_memory_map(at, &room, true);
        if (!start || !room)
            fail("the guest zeroes what is no RAM");
        char *first = (char *)(((uintptr_t)start + PAGE - 1) & -PAGE);
        char *last = (char *)((uintptr_t)(start + room) & -PAGE);
        if (first >= last || start < ram || start + room > ram + ram_size
            || madvise(first, last - first, MADV_DONTNEED))
            memset(start, 0, room);
        else {
            memset(start, 0, first - start);
            memset(last, 0, start + room - last);
        }
        cpu_physical_memory_unmap(start, room, true, room);
        at += room, size -= room;
    }
}

/* The words of a range: address and size, the low halves first. */
static void zero_word(uint32_t value)
{
    static uint32_t words[4];
    static unsigned count;
    words[count++] = value;
    if (count < 4)
        return;
    count = 0;
    zero(words[0] | (uint64_t)words[1] << 32, words[2] | (uint64_t)words[3] << 32);
}

static void port_write(void *unused, uint64_t port, uint64_t value, unsigned size)
{
    (void)unused, (void)size;
    if (port == ZERO) {
        zero_word(value);
        return;
    }
    if (port == START) {
        if (state == BOOTING)
            async_run_on_cpu(qemu_get_cpu(0), serve, (cpu_data){ 0 });
        return;
    }
    if (state == COPY)
        at_end(END, port);
    else if (state == WARMING) {
        at_end(END, port);
        async_run_on_cpu(qemu_get_cpu(0), serve, (cpu_data){ 0 });
    }
}

static uint64_t port_read(void *unused, uint64_t port, unsigned size)
{
    (void)unused, (void)port, (void)size;
    return ~0ULL;
}

/* A halted CPU waits for its condition; in a copy nobody is left to signal it. */
int pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex)
{
    static int (*real)(pthread_cond_t *, pthread_mutex_t *);
    if (state == COPY)
        at_end(HALTED, 0);
    if (!real)
        real = dlvsym(RTLD_NEXT, "pthread_cond_wait", "GLIBC_2.3.2");
    return real(condition, mutex);
}

static int inherit(void *block, void *unused)
{
    (void)unused;
    madvise(qemu_ram_get_host_addr(block), (qemu_ram_get_used_length(block) + PAGE - 1) & -PAGE, MADV_DOFORK);
    return 0;
}

static void machine_ready(struct notifier *unused, void *unused_too)
{
    static struct region_ops ops = { port_read, port_write, { 0 } };
    static uint64_t region[1024];
    (void)unused, (void)unused_too;
    void *block = qemu_ram_block_by_name("ram0");
    if (!block)
        fail("QEMU has no RAM called ram0");
    ram = qemu_ram_get_host_addr(block);
    ram_size = qemu_ram_get_used_length(block);
    ram_offset = qemu_ram_get_offset(block);
    qemu_ram_foreach_block(inherit, NULL);
    memory_region_init_io(region, NULL, &ops, NULL, "acpitk", PORTS);
    memory_region_add_subregion(get_system_io(), BASE, region);
}

__attribute__((constructor)) static void preloaded(void)
{
    static struct notifier ready = { machine_ready, { 0 } };
    const char *fd = getenv("ACPITK_FORK_FD");
    if (!fd)
        return;
    client = atoi(fd);
    unsetenv("LD_PRELOAD");
    unsetenv("ACPITK_FORK_FD");
    pthread_t watcher;
    if (pthread_create(&watcher, NULL, watch, NULL))
        fail("no thread");
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++)
        if (!(*symbols[i].place = dlsym(RTLD_DEFAULT, symbols[i].name))) {
            char why[200];
            snprintf(why, sizeof why, "this QEMU does not export %s", symbols[i].name);
            fail(why);
        }
    answer(HELLO, 0, 0);
    qemu_add_machine_init_done_notifier(&ready);
}
