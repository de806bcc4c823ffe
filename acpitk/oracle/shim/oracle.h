/* SPDX-License-Identifier: MIT */
/* What the two halves of the shim share: worker.c (the process) and shim.c (the kernel's surroundings). */
#ifndef ACPITK_ORACLE_H
#define ACPITK_ORACLE_H

typedef unsigned int o32;
typedef unsigned long o64;

#define ORACLE_PHYS_BASE 0x100000000000UL /* where physical address 0 is mapped */
#define ORACLE_PHYS_SIZE 0x400000000000UL /* 64 TiB, what x86-64 can have in a direct map */
#define ORACLE_VMEMMAP_BASE 0x600000000000UL /* the struct pages of all that */
#define ORACLE_VMEMMAP_SIZE 0x10000000000UL

enum oracle_end { END_DONE, END_PANIC, END_STUB, END_FAULT, END_HANG };

enum oracle_request_flags { WANT_LOG = 1, RESERVED_GIVEN = 2 };

/* A request, all of it little-endian and 8-byte aligned; `size` counts everything. Behind it, in this order:
 * the command line (padded with zeros to 8), e820 entries (20 bytes each, padded to 8), rows of
 * `placed` and of `reserved` (two o64 each), blobs (address, length, bytes padded to 8). */
struct oracle_request {
	o32 size, flags;
	o32 cmdline, e820, placed, reserved, blobs;
	o32 ticks; /* time limit: ticks of 4 ms CPU time */
	o64 rsdp;
	o64 initrd_start, initrd_size;
	o64 brk_early; /* bytes of brk in use before the page table buffer is taken */
};

/* A response; `size` counts everything. Behind it: rows of o64, then the end's text and the log, each
 * padded to 8. */
struct oracle_response {
	o32 size, end;
	o32 stage; /* 1: NUMA is done, 2: zones are done */
	o32 state, reason;
	o32 memory, reserved; /* rows: base, end, nid (or ~0), and of memory flags */
	o32 node_data; /* rows: nid, start, end, on_nid */
	o32 movable; /* rows: nid, pfn */
	o32 zones; /* rows: nid << 8 | zone, start pfn, end pfn */
	o32 pxm; /* rows: pxm, nid */
	o32 distances; /* side of the matrix, in bytes behind the rows */
	o32 nodes; /* the highest possible one, plus one */
	o32 text, log, pad;
};

/* worker.c, for shim.c */
extern struct oracle_request *oracle_request;
extern void oracle_exit(enum oracle_end end) __attribute__((noreturn));
extern void oracle_text(const char *text, o64 length); /* of the end */
extern char *oracle_log(o64 room); /* where to append */
extern void oracle_logged(o64 length);
extern int oracle_log_wanted;
extern void oracle_put(const void *data, o64 length);
extern void oracle_clean(void *start, o64 length);
extern struct oracle_response *oracle_response;
extern void oracle_checkpoint(int keep);

/* shim.c, for worker.c */
extern void oracle_kernel_setup(void); /* once */
extern void oracle_kernel_blobs(int remove); /* what firmware leaves in memory; after the run it goes */
extern void oracle_kernel_run(void); /* every request, ends with oracle_exit() */
extern void oracle_kernel_report(void); /* after it: what the kernel's data says */

#endif
