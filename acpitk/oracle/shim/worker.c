/* SPDX-License-Identifier: MIT */
/* The process around the kernel's code: memory, faults, time limit, and the protocol of client.py.
 *
 * Freestanding: the kernel's objects bring their own string functions. Requests and responses lie in a
 * shared memory file, the descriptor given as argument; on stdin runs the requests there, one byte on stdout answers.
 */
#include "oracle.h"

static int shared_fd;
#define PAGE 4096UL

#define SYS_READ 0
#define SYS_WRITE 1
#define SYS_OPEN 2
#define SYS_MMAP 9
#define SYS_MPROTECT 10
#define SYS_PREAD 17
#define SYS_SIGACTION 13
#define SYS_MADVISE 28
#define SYS_SETITIMER 38
#define SYS_EXIT 231
#define SYS_SIGALTSTACK 131
#define SYS_PRCTL 157
#define SYS_FSTAT 5

static long call(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall" : "=a"(ret) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

static void die(int status)
{
	for (;;)
		call(SYS_EXIT, status, 0, 0, 0, 0, 0);
}

static void copy(void *to, const void *from, o64 length)
{
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(length) : : "memory");
}

static o64 length_of(const char *text)
{
	o64 n = 0;

	while (text[n])
		n++;
	return n;
}

/* The kernel's data, between these symbols of kernel.ld, is put back after every run. A page that was never
 * written is still read-only; the first write to it enters it in `dirty` for good. */
extern char __kdata_start[], __kdata_end[], __snapshot_start[], __nodata_start[], __nodata_end[];
extern char __ktext_start[], __ktext_end[];
static o32 dirty[4096], dirty_count;

struct oracle_request *oracle_request;
struct oracle_response *oracle_response;
int oracle_log_wanted;

static char *out, *out_end;
static char text[512];
static o64 text_length;
static char *log_buffer;
static o64 log_length;
#define LOG_MAX (16UL << 20)
static volatile o32 run_serial, seen_serial, ticks;
#define TICK 4000 /* microseconds of CPU time */
static void *jump[5];
static volatile int running;
static enum oracle_end ended;

void oracle_exit(enum oracle_end end)
{
	ended = end;
	__builtin_longjmp(jump, 1);
}

void oracle_text(const char *words, o64 length)
{
	if (length > sizeof text)
		length = sizeof text;
	copy(text, words, length);
	text_length = length;
}

char *oracle_log(o64 room)
{
	return log_length + room <= LOG_MAX ? log_buffer + log_length : 0;
}

void oracle_logged(o64 length)
{
	log_length += length;
}

void oracle_put(const void *data, o64 length)
{
	if (out + length > out_end)
		die(4);
	copy(out, data, length);
	out += length;
}

static void put_padded(const void *data, o64 length)
{
	static const char zeros[8];

	oracle_put(data, length);
	oracle_put(zeros, -length & 7);
}

static void zero(char *at, o64 length)
{
	__asm__ volatile("rep stosb" : "+D"(at), "+c"(length) : "a"(0) : "memory");
}

/* Whole pages back to zero. Few of many were ever touched: those are asked for and written, which spares
 * giving them back and faulting them in again in the next run. */
static long pagemap = -1;
#define ASKED 256

static void zero_pages(char *first, char *last)
{
	o64 entries[ASKED];

	if (pagemap < 0 || (o64)(last - first) > 16 * ASKED * PAGE) {
		call(SYS_MADVISE, (long)first, last - first, 4 /* MADV_DONTNEED */, 0, 0, 0);
		return;
	}
	while (first < last) {
		long i, pages = (last - first) / PAGE < ASKED ? (last - first) / PAGE : ASKED;

		if (call(SYS_PREAD, pagemap, (long)entries, pages * 8, (o64)first / PAGE * 8, 0, 0) != pages * 8)
			die(12);
		for (i = 0; i < pages; i++)
			if (entries[i] >> 62) /* present or swapped */
				zero(first + i * PAGE, PAGE);
		first += pages * PAGE;
	}
}

void oracle_clean(void *start, o64 length)
{
	char *at = start, *end = at + length;
	char *first = (char *)(((o64)at + PAGE - 1) & ~(PAGE - 1)), *last = (char *)((o64)end & ~(PAGE - 1));

	if (first >= last) {
		zero(at, length);
		return;
	}
	zero(at, first - at);
	zero_pages(first, last);
	zero(last, end - last);
}

/* --- the kernel's string functions; memory that is not touched yet stays so */

#define KERNEL_MAP 0xffffffff80000000UL

void *memset(void *to, int c, o64 n)
{
	void *at = to;

	if ((o64)to >= KERNEL_MAP) /* the kernel's own image: only brk is ever written */
		at = (char *)ORACLE_PHYS_BASE + ((o64)to - KERNEL_MAP);
	if (n >= 2 * PAGE && !c && (o64)at - ORACLE_PHYS_BASE < ORACLE_PHYS_SIZE) {
		oracle_clean(at, n);
		return to;
	}
	__asm__ volatile("rep stosb" : "+D"(at), "+c"(n) : "a"(c) : "memory");
	return to;
}

void *memcpy(void *to, const void *from, o64 n)
{
	copy(to, from, n);
	return to;
}

void *memmove(void *to, const void *from, o64 n)
{
	if ((o64)to - (o64)from >= n)
		return memcpy(to, from, n);
	for (; n >= 8; n -= 8)
		*(volatile o64 *)((char *)to + n - 8) = *(const o64 *)((const char *)from + n - 8);
	while (n--)
		((volatile char *)to)[n] = ((const char *)from)[n];
	return to;
}

/* called with the kernel's alternatives: only rax, rcx and rdi may change */
__asm__(".text\n.globl clear_page_orig, clear_page_rep, clear_page_erms\n"
	"clear_page_orig:\nclear_page_rep:\nclear_page_erms:\n"
	"\txor %eax, %eax\n\tmov $512, %ecx\n\trep stosq\n\tret\n"
	".globl __clear_pages_unrolled\n__clear_pages_unrolled:\n\trep stosb\n\tret\n");

static void say(enum oracle_end end, const char *words)
{
	ended = end;
	oracle_text(words, length_of(words));
}

/* ` in 0x401234` behind the end's text; the client knows the names. */
static void say_where(o64 address)
{
	char *at = text + text_length;

	if (text_length + 24 > sizeof text)
		return;
	copy(at, " in 0x", 6);
	at += 6;
	for (int shift = 60; shift >= 0; shift -= 4)
		if (address >> shift || !shift)
			*at++ = "0123456789abcdef"[address >> shift & 15];
	text_length = at - text;
}

/* struct ucontext of the kernel's signal ABI, as far as needed */
struct context {
	o64 flags;
	void *link;
	struct { void *sp; int flags; o64 size; } stack;
	o64 regs[23]; /* r8-r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, ... err is 19, trapno 20 */
};
#define REG_RAX 13
#define REG_RSP 15
#define REG_RIP 16

static void __attribute__((noreturn)) leave(void)
{
	__builtin_longjmp(jump, 1);
}

static void abandon(struct context *context)
{
	if (!running)
		die(5);
	context->regs[REG_RIP] = (o64)leave;
	context->regs[REG_RSP] = (context->regs[REG_RSP] - 512) & ~15UL;
}

/* A privileged instruction: moves to and from control and debug registers, cli, sti, hlt, invlpg, wbinvd,
 * rdmsr, wrmsr, in, out. It is replaced by no-ops for good; what it would have read is 0. */
static int patch_privileged(struct context *context)
{
	unsigned char *at = (unsigned char *)context->regs[REG_RIP];
	int length = 0, start = 0;

	if ((char *)at < __ktext_start || (char *)at >= __ktext_end)
		return 0;
	while (at[start] == 0x66 || (at[start] & 0xf0) == 0x40)
		start++;
	if (at[start] == 0x0f) {
		unsigned char op = at[start + 1];

		if ((op & 0xfc) == 0x20)
			length = start + 3; /* mov cr, mov dr */
		else if (op == 0x09 || op == 0x30 || op == 0x32)
			length = start + 2;
		else if (op == 0x01 && at[start + 2] >> 6 != 3 && (at[start + 2] & 7) != 4)
			length = start + ((at[start + 2] >> 6 == 1) ? 4 : 3); /* invlpg, lidt */
		if ((op & 0xfd) == 0x20) { /* mov from cr: zero the register instead */
			int reg = (at[start + 2] & 7) | (start && (at[start - 1] & 1) ? 8 : 0);
			static const unsigned char slot[16] = { 13, 14, 12, 11, 15, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7 };

			context->regs[slot[reg]] = 0;
			context->regs[REG_RIP] += length;
			return 1;
		}
	} else if (at[start] == 0xfa || at[start] == 0xfb || at[start] == 0xf4 ||
		   (at[start] >= 0xec && at[start] <= 0xef)) {
		length = start + 1;
	} else if (at[start] >= 0xe4 && at[start] <= 0xe7) {
		length = start + 2;
	}
	if (!length)
		return 0;
	for (int i = 0; i < length; i++)
		at[i] = 0x90;
	context->regs[REG_RAX] = 0;
	return 1;
}

extern const char *const oracle_nodata_names[];
extern const o32 oracle_nodata_count;
#define NODATA_SIZE 4096UL

static void on_signal(int number, int *info, struct context *context)
{
	char *address = *(char **)((char *)info + 16);

	if (number == 26) { /* SIGVTALRM */
		if (run_serial != seen_serial) {
			seen_serial = run_serial;
			ticks = 0;
		} else if (running && ++ticks >= oracle_request->ticks) {
			say(END_HANG, "no end in sight");
			abandon(context);
		}
		return;
	}
	if (number == 11) {
		if (address >= __kdata_start && address < __kdata_end && dirty_count < 4096) {
			o64 page = (address - __kdata_start) / PAGE;

			if (call(SYS_MPROTECT, (long)(__kdata_start + page * PAGE), PAGE, 3, 0, 0, 0))
				die(6);
			dirty[dirty_count++] = page;
			return;
		}
		if (address >= __nodata_start && address < __nodata_end) {
			say(END_STUB, oracle_nodata_names[(address - __nodata_start) / NODATA_SIZE]);
			abandon(context);
			return;
		}
		if (!address && patch_privileged(context))
			return;
		say(END_FAULT, (o64)address < PAGE * 16 ? "BUG: kernel NULL pointer dereference" :
							"BUG: unable to handle page fault");
	} else if (number == 8) {
		say(END_FAULT, "divide error");
	} else if (number == 4) {
		say(END_FAULT, "invalid opcode");
	} else {
		say(END_FAULT, "signal");
	}
	say_where(context->regs[REG_RIP]);
	abandon(context);
}

struct sigaction_abi {
	void (*handler)(int, int *, struct context *);
	o64 flags;
	void (*restorer)(void);
	o64 mask;
};

__asm__(".text\noracle_restorer:\n\tmov $15, %eax\n\tsyscall\n"
	".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall oracle_main\n\tud2\n");
extern void oracle_restorer(void);

static void handle(int number)
{
	struct sigaction_abi action = { on_signal, 0x04000000 | 0x08000000 | 4 | 0x40000000, oracle_restorer, 0 };

	if (call(SYS_SIGACTION, number, (long)&action, 0, 8, 0, 0))
		die(7);
}

static char alternate[65536] __attribute__((aligned(16)));

/* --- checkpoints: everything before the ACPI tables are read depends on the memory map and the command line
 * alone, and cases share those. A checkpoint is the stack and the pages of the kernel's data that differ from
 * the snapshot, taken where acpi_boot_table_init() is called. What was written to physical memory by then is
 * page tables and ACPI blobs: the former are not read again, the latter are written for every run. */

#define SLOTS 1024
#define WAYS 4
#define KEY_MAX 8192
#define PAGES_MAX 4096

struct slot {
	o32 key_length, stored_count;
	o64 stack_length;
	char key[KEY_MAX];
	char stack[KEY_MAX];
	unsigned short stored[PAGES_MAX]; /* 1 + index in pages */
	char pages[512][PAGE] __attribute__((aligned(4096)));
};

static struct slot *slots, *slot;
static char kernel_stack[1 << 16] __attribute__((aligned(4096)));
#define STACK_TOP (kernel_stack + sizeof kernel_stack - 64)

static int same(const void *one, const void *other, o64 words)
{
	const o64 *a = one, *b = other;

	while (words--)
		if (*a++ != *b++)
			return 0;
	return 1;
}

/* What a checkpoint depends on: the request's header from `cmdline` on, and all rows before the blobs. */
static o64 key_of(const struct oracle_request *r, const char **key)
{
	o64 rows = ((r->cmdline + 7) & ~7UL) + ((r->e820 * 20 + 7) & ~7UL) + (r->placed + r->reserved) * 16UL;

	*key = (const char *)&r->initrd_start;
	return sizeof *r - ((const char *)&r->initrd_start - (const char *)r) + rows;
}

/* The checkpoint of that key, or one that gives way to it: of four in turn. */
static struct slot *slot_of(const char *key, o64 length)
{
	static o32 turn;
	o64 hash = length;
	struct slot *set;

	if (length > KEY_MAX)
		return 0;
	for (o64 i = 0; i < length; i += 8)
		hash = (hash ^ *(const o64 *)(key + i)) * 0x9E3779B97F4A7C15UL, hash ^= hash >> 29;
	set = slots + hash % (SLOTS / WAYS) * WAYS;
	for (int i = 0; i < WAYS; i++)
		if (set[i].key_length == length && same(set[i].key, key, length / 8))
			return set + i;
	return set + turn++ % WAYS;
}

/* oracle_checkpoint(keep): what is called preserves rbx, rbp and r12-r15, and so does a resumption. */
__asm__(".text\n.globl oracle_checkpoint\noracle_checkpoint:\n"
	"\tpush %rbp\n\tpush %rbx\n\tpush %r12\n\tpush %r13\n\tpush %r14\n\tpush %r15\n"
	"\tmov %rsp, %rsi\n\tcall oracle_save\n"
	"oracle_resume:\n"
	"\tpop %r15\n\tpop %r14\n\tpop %r13\n\tpop %r12\n\tpop %rbx\n\tpop %rbp\n\tret\n");

void oracle_save(int keep, char *top)
{
	o64 used = STACK_TOP - top;
	o32 i;

	if (!slot || !keep || used > sizeof slot->stack)
		return;
	for (i = 0; i < dirty_count; i++) {
		const char *page = __kdata_start + dirty[i] * PAGE;

		if (same(page, __snapshot_start + dirty[i] * PAGE, PAGE / 8))
			continue;
		if (slot->stored_count == 512)
			return;
		copy(slot->pages[slot->stored_count], page, PAGE);
		slot->stored[dirty[i]] = ++slot->stored_count;
	}
	copy(slot->stack, top, used);
	slot->stack_length = used; /* the checkpoint is whole */
}

static void put_back(const struct slot *from)
{
	for (o32 i = 0; i < dirty_count; i++) {
		void *to = __kdata_start + dirty[i] * PAGE;
		const void *page = __snapshot_start + dirty[i] * PAGE;
		o64 words = PAGE / 8;

		if (from && from->stored[dirty[i]])
			page = from->pages[from->stored[dirty[i]] - 1];
		__asm__ volatile("rep movsq" : "+D"(to), "+S"(page), "+c"(words) : : "memory");
	}
}

static long map(long at, o64 size, int fixed)
{
	/* private, anonymous, not reserved */
	return call(SYS_MMAP, at, size, 3, 0x4022 | (fixed ? 0x10 : 0), -1, 0);
}

/* What a run left in memory stays for a while: RAM holds anything when a kernel starts, so it reads nothing it
 * did not write, the firmware's tables and what follows them aside; and those are taken out after every run.
 * A new mapping now and then, because page tables that stay behind cost more than pages. */
#define RUNS_BETWEEN 512

static void forget_memory(void)
{
	static o32 runs;

	oracle_kernel_blobs(1);
	if (++runs % RUNS_BETWEEN && !oracle_log_wanted)
		return;
	if (map(ORACLE_PHYS_BASE, ORACLE_PHYS_SIZE, 1) != (long)ORACLE_PHYS_BASE)
		die(10);
	if (oracle_log_wanted)
		call(SYS_MADVISE, ORACLE_VMEMMAP_BASE, ORACLE_VMEMMAP_SIZE, 4, 0, 0, 0);
}

/* The kernel runs on a stack of its own, from the start or from a checkpoint. */
static void __attribute__((noinline)) run(void)
{
	const char *key;
	o64 length = key_of(oracle_request, &key);

	slot = oracle_log_wanted ? 0 : slot_of(key, length);
	if (slot && slot->stack_length && slot->key_length == length && same(slot->key, key, length / 8)) {
		put_back(slot);
		oracle_kernel_blobs(0);
		copy(STACK_TOP - slot->stack_length, slot->stack, slot->stack_length);
		__asm__ volatile("mov %0, %%rsp\n\tjmp oracle_resume"
				 : : "r"(STACK_TOP - slot->stack_length) : "memory");
		__builtin_unreachable();
	}
	put_back(0);
	if (slot) {
		for (o32 i = 0; i < PAGES_MAX && slot->stored_count; i++)
			slot->stored[i] = 0;
		slot->stored_count = slot->stack_length = 0;
		slot->key_length = length;
		copy(slot->key, key, length);
	}
	oracle_kernel_blobs(0);
	__asm__ volatile("mov %0, %%rsp\n\txor %%ebp, %%ebp\n\tcall oracle_kernel_run\n\tud2"
			 : : "r"(STACK_TOP) : "memory");
	__builtin_unreachable();
}

static void __attribute__((noinline)) one(void)
{
	struct oracle_response *response = (struct oracle_response *)out;
	static const struct oracle_response empty;

	oracle_response = response;
	oracle_put(&empty, sizeof empty);
	text_length = log_length = 0;
	oracle_log_wanted = oracle_request->flags & WANT_LOG;
	if (oracle_log_wanted)
		forget_memory();
	run_serial++;
	running = 1;
	if (!__builtin_setjmp(jump))
		run();
	if (!__builtin_setjmp(jump)) {
		response->end = ended;
		oracle_kernel_report();
	} else {
		out = (char *)(response + 1); /* its own data made the report fault */
		copy(response, &empty, sizeof empty);
		response->end = ended;
	}
	running = 0;
	response->text = text_length;
	response->log = log_length;
	put_padded(text, text_length);
	put_padded(log_buffer, log_length);
	response->size = out - (char *)response;
	forget_memory();
}

/* The shared file: a page of header {o64 requests' bytes, responses' room, finished}, then both areas. */
struct shared {
	volatile o64 requests, responses, finished;
};

void oracle_main(char **stack_top)
{
	struct { void *sp; int flags; o64 size; } stack = { alternate, 0, sizeof alternate };
	struct { o64 interval[2], value[2]; } timer = { { 0, TICK }, { 0, TICK } };
	o64 stat[18];
	char *shared;
	struct shared *header;
	long got;

	for (const char *digit = stack_top[2]; digit && *digit; digit++)
		shared_fd = shared_fd * 10 + *digit - '0';
	call(SYS_PRCTL, 1 /* PR_SET_PDEATHSIG */, 9, 0, 0, 0, 0);
	if (call(SYS_FSTAT, shared_fd, (long)stat, 0, 0, 0, 0))
		die(8);
	got = call(SYS_MMAP, 0, stat[6], 3, 1, shared_fd, 0);
	if (got < 0 && got > -4096)
		die(9);
	shared = (char *)got;
	header = (struct shared *)shared;
	if (map(ORACLE_PHYS_BASE, ORACLE_PHYS_SIZE, 1) != (long)ORACLE_PHYS_BASE)
		die(10);
	if (map(ORACLE_VMEMMAP_BASE, ORACLE_VMEMMAP_SIZE, 1) != (long)ORACLE_VMEMMAP_BASE)
		die(10);
	pagemap = call(SYS_OPEN, (long)"/proc/self/pagemap", 0, 0, 0, 0, 0);
	log_buffer = (char *)map(0, LOG_MAX, 0);
	slots = (struct slot *)map(0, SLOTS * sizeof(struct slot), 0);
	if (call(SYS_SIGALTSTACK, (long)&stack, 0, 0, 0, 0, 0))
		die(11);
	handle(4), handle(5), handle(7), handle(8), handle(11), handle(26);
	call(SYS_MPROTECT, (long)__ktext_start, __ktext_end - __ktext_start, 7, 0, 0, 0);
	oracle_kernel_setup();
	copy(__snapshot_start, __kdata_start, __kdata_end - __kdata_start);
	put_back(0);
	call(SYS_MPROTECT, (long)__kdata_start, __kdata_end - __kdata_start, 1, 0, 0, 0);
	call(SYS_MPROTECT, (long)__nodata_start, __nodata_end - __nodata_start, 0, 0, 0, 0);
	call(SYS_SETITIMER, 1 /* ITIMER_VIRTUAL */, (long)&timer, 0, 0, 0, 0);
	for (;;) {
		char line = 0;
		char *in, *in_end;

		do
			got = call(SYS_READ, 0, (long)&line, 1, 0, 0, 0);
		while (got == -4);
		if (got != 1)
			die(0);
		in = shared + PAGE;
		in_end = in + header->requests;
		out = in + ((header->requests + PAGE - 1) & ~(PAGE - 1));
		out_end = out + header->responses;
		header->finished = 0;
		while (in < in_end) {
			oracle_request = (struct oracle_request *)in;
			if (out + (1UL << 21) > out_end && header->finished)
				break; /* the rest with the next line */
			one();
			in += oracle_request->size;
			header->finished++;
		}
		while (call(SYS_WRITE, 1, (long)&line, 1, 0, 0, 0) == -4)
			;
	}
}
