/* SPDX-License-Identifier: MIT */
/* What the kernel's files find around them: the few facilities they need before there is a page allocator,
 * the machine of the request, and afterwards the report of what they decided. */
#include <linux/acpi.h>
#include <linux/crash_dump.h>
#include <linux/earlycpio.h>
#include <linux/kexec.h>
#include <linux/kernel.h>
#include <linux/memblock.h>
#include <linux/mm.h>
#include <linux/nodemask.h>
#include <linux/efi.h>
#include <asm/bootparam.h>
#include <asm/e820/api.h>
#include <asm/numa.h>
#include <asm/setup.h>
#include <asm/x86_init.h>
#include <acpi/acpi.h>
#include <acpi/acpi_numa.h>
#include "accommon.h"

#include "oracle.h"

/* --- what head_64.S, head64.c and others set up before setup_arch() */

unsigned long page_offset_base = ORACLE_PHYS_BASE;
unsigned long vmalloc_base = 0x580000000000UL;
unsigned long vmemmap_base = ORACLE_VMEMMAP_BASE;
unsigned long phys_base;
unsigned long physmem_end = (1UL << 46) - 1; /* what kernel_randomize_memory() presets */
unsigned long direct_map_physmem_end = (1UL << 46) - 1;
unsigned int __pgtable_l5_enabled;
unsigned int pgdir_shift = 39;
unsigned int ptrs_per_p4d = 1;
unsigned int nr_cpu_ids = 1;
void *high_memory;
pgd_t init_top_pgt[512] __aligned(PAGE_SIZE);
pmd_t level2_kernel_pgt[512] __aligned(PAGE_SIZE);
struct mm_struct init_mm = { .pgd = init_top_pgt };
struct list_head pgd_list = { &pgd_list, &pgd_list };
struct efi efi;
struct resource crashk_res = { .name = "Crash kernel" }, crashk_low_res = { .name = "Crash kernel" };

void early_cpu_init(void)
{
	/* what matters of QEMU's qemu64: 2 MiB pages, no 1 GiB pages */
	set_cpu_cap(&boot_cpu_data, X86_FEATURE_PSE);
	set_cpu_cap(&boot_cpu_data, X86_FEATURE_PGE);
	set_cpu_cap(&boot_cpu_data, X86_FEATURE_NX);
	set_cpu_cap(&boot_cpu_data, X86_FEATURE_APIC);
	set_cpu_cap(&boot_cpu_data, X86_FEATURE_PAT);
	boot_cpu_data.x86_virt_bits = 48;
}

void dmi_setup(void)
{
	if (oracle_request->brk_early)
		extend_brk(oracle_request->brk_early, sizeof(int));
}

/* --- printk: the log where it is wanted, the events that the report needs always */

static struct {
	int state, reason, stage, nodes;
	o64 node_data[MAX_NUMNODES][4];
	int line_open;
} seen;

enum { REASON_ACCEPTED, REASON_ZERO_LENGTH, REASON_BAD_SRAT, REASON_OVERLAP, REASON_COVERAGE, REASON_OFF,
       REASON_NO_MEMORY, REASON_NO_SRAT };
enum { STATE_SRAT, STATE_DUMMY, STATE_OFF };

enum event {
	EVENT_NONE = 1, EVENT_ZERO, EVENT_BAD, EVENT_OVERLAP, EVENT_COVERAGE, EVENT_NODE_DATA, EVENT_ON_NODE,
	EVENT_DUMMY,
};

static const struct { const char *words; enum event event; } events[] = {
	{ "] Invalid zero length", EVENT_ZERO },
	{ "SRAT not used", EVENT_BAD },
	{ "overlaps with node", EVENT_OVERLAP },
	{ "nodes only cover", EVENT_COVERAGE },
	{ "no nodes coverage for", EVENT_COVERAGE },
	{ "NODE_DATA(%d) allocated", EVENT_NODE_DATA },
	{ "NODE_DATA(%d) on node %d", EVENT_ON_NODE },
	{ "Faking a node at", EVENT_DUMMY },
};

static const char *find(const char *in, const char *words)
{
	size_t i;

	for (; *in; in++) {
		for (i = 0; words[i] && in[i] == words[i]; i++)
			;
		if (!words[i])
			return in;
	}
	return NULL;
}

/* Which event a format is about, looked up once per format (they are literals). */
static enum event event_of(const char *fmt)
{
	static struct { const char *fmt; enum event event; } cache[1024] __section(".host.bss");
	unsigned int slot = ((unsigned long)fmt * 0x9E3779B1u >> 8) & 1023;
	int i;

	if (cache[slot].fmt != fmt) {
		cache[slot].event = EVENT_NONE;
		for (i = 0; i < ARRAY_SIZE(events); i++)
			if (find(fmt, events[i].words)) {
				cache[slot].event = events[i].event;
				break;
			}
		cache[slot].fmt = fmt;
	}
	return cache[slot].event;
}

static void decide(int reason)
{
	if (!seen.reason)
		seen.reason = reason;
}

static void note(enum event event, const char *fmt, va_list args)
{
	char line[256];
	int nid;

	switch (event) {
	case EVENT_ZERO:
		vsnprintf(line, sizeof(line), fmt, args);
		if (find(line, "SRAT:0x01"))
			decide(REASON_ZERO_LENGTH);
		break;
	case EVENT_BAD:
		decide(REASON_BAD_SRAT);
		break;
	case EVENT_OVERLAP:
		if (!find(fmt, "Warning")) /* of one node: only a warning */
			decide(REASON_OVERLAP);
		break;
	case EVENT_COVERAGE:
		decide(REASON_COVERAGE);
		break;
	case EVENT_NODE_DATA:
		if (seen.nodes < MAX_NUMNODES) {
			o64 *row = seen.node_data[seen.nodes++];

			row[0] = row[3] = va_arg(args, int);
			row[1] = va_arg(args, u64);
			row[2] = va_arg(args, u64) + 1;
		}
		break;
	case EVENT_ON_NODE:
		nid = va_arg(args, int);
		if (seen.nodes && seen.node_data[seen.nodes - 1][0] == nid)
			seen.node_data[seen.nodes - 1][3] = va_arg(args, int);
		break;
	case EVENT_DUMMY:
		seen.state = numa_off ? STATE_OFF : STATE_DUMMY;
		if (numa_off)
			decide(REASON_OFF);
		break;
	default:
		break;
	}
}

#define LINE 1024

static void append(const char *line, int length, bool continues)
{
	char *to = oracle_log(length + 1);

	if (!to)
		return;
	if (seen.line_open && !continues) {
		*to++ = '\n';
		oracle_logged(1);
	}
	memcpy(to, line, length);
	oracle_logged(length);
	seen.line_open = length && line[length - 1] != '\n';
}

static int print(const char *fmt, va_list args)
{
	enum event event = event_of(fmt);
	char line[LINE], *text = line;
	bool continues = false;
	int length;

	if (event != EVENT_NONE) {
		va_list again;

		va_copy(again, args);
		note(event, fmt, again);
		va_end(again);
	}
	if (!oracle_log_wanted)
		return 0;
	length = vscnprintf(line, sizeof(line), fmt, args);
	while (length > 1 && text[0] == '\001') {
		continues |= text[1] == 'c';
		text += 2;
		length -= 2;
	}
	append(text, length, continues);
	return length;
}

int _printk(const char *fmt, ...)
{
	va_list args;
	int length;

	va_start(args, fmt);
	length = print(fmt, args);
	va_end(args);
	return length;
}

#undef printk
int printk(const char *fmt, ...) __attribute__((alias("_printk")));
void __warn_printk(const char *fmt, ...) __attribute__((alias("_printk")));

int vprintk(const char *fmt, va_list args)
{
	return print(fmt, args);
}

static void last_words(const char *fmt, ...)
{
	char line[LINE];
	va_list args;
	int length;

	va_start(args, fmt);
	length = vscnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	oracle_text(line, length);
	if (oracle_log_wanted)
		append(line, length, false);
}

void oracle_warn(const char *file, int line, const char *function)
{
	if (oracle_log_wanted)
		_printk("WARNING: CPU: 0 PID: 0 at %s:%d %s\n", file, line, function);
}

void __noreturn oracle_bug(const char *file, int line)
{
	last_words("kernel BUG at %s:%d!", file, line);
	oracle_exit(END_PANIC);
}

void __noreturn panic(const char *fmt, ...)
{
	char line[LINE];
	va_list args;

	va_start(args, fmt);
	vscnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	last_words("Kernel panic - not syncing: %s", line);
	oracle_exit(END_PANIC);
}

void __noreturn oracle_stub(const char *name)
{
	oracle_text(name, strlen(name));
	oracle_exit(END_STUB);
}

/* %pS: the client knows the names */
int sprint_symbol(char *buffer, unsigned long address)
{
	return sprintf(buffer, "0x%lx", address);
}

int sprint_symbol_no_offset(char *buffer, unsigned long address) __attribute__((alias("sprint_symbol")));
int sprint_symbol_build_id(char *buffer, unsigned long address) __attribute__((alias("sprint_symbol")));
int sprint_backtrace(char *buffer, unsigned long address) __attribute__((alias("sprint_symbol")));
int sprint_backtrace_build_id(char *buffer, unsigned long address) __attribute__((alias("sprint_symbol")));

/* --- early mappings: RAM is mapped already; the kernel's limit is that of __early_ioremap() */

#define EARLY_PAGES 64

void *early_memremap(resource_size_t at, unsigned long size)
{
	unsigned long pages = PAGE_ALIGN(offset_in_page(at) + size) >> PAGE_SHIFT;

	if (WARN_ON(!size || at + size - 1 < at) || WARN_ON(pages > EARLY_PAGES))
		return NULL;
	return __va(at);
}

void __iomem *early_ioremap(resource_size_t at, unsigned long size)
{
	return (void __iomem *)early_memremap(at, size);
}

void *early_memremap_ro(resource_size_t at, unsigned long size)
{
	return early_memremap(at, size);
}

void early_memunmap(void *at, unsigned long size)
{
}

void early_iounmap(void __iomem *at, unsigned long size)
{
}

void early_ioremap_init(void)
{
}

/* No initrd here carries ACPI tables. */
struct cpio_data find_cpio_data(const char *path, void *data, size_t length, long *next)
{
	return (struct cpio_data){};
}

/* --- where the run leaves the kernel's path */

extern void __real_initmem_init(void);
extern void mm_core_init_early(void) __weak;
extern void setup_arch(char **cmdline);
extern void oracle_original_pagetable_init(void);

static struct memblock_region after_numa[2][4096];
static int after_numa_count[2];

static bool in_memory(const void *at)
{
	return (unsigned long)at - ORACLE_PHYS_BASE < ORACLE_PHYS_SIZE;
}

static void keep(int which, struct memblock_type *type)
{
	int i, n = min_t(unsigned long, type->cnt, 4096);

	for (i = 0; i < n; i++)
		if (type->regions[i].size)
			after_numa[which][after_numa_count[which]++] = type->regions[i];
}

static const o64 *request_rows(o32 *rows)
{
	const char *at = (const char *)(oracle_request + 1);

	at += ALIGN(oracle_request->cmdline, 8) + ALIGN(oracle_request->e820 * 20, 8);
	if (rows == &oracle_request->reserved)
		at += oracle_request->placed * 16;
	return (const o64 *)at;
}

void __wrap_initmem_init(void)
{
	const o64 *row = request_rows(&oracle_request->reserved);
	o32 i;

	if (oracle_request->flags & RESERVED_GIVEN) {
		memblock.reserved.regions[0] = (struct memblock_region){};
		memblock.reserved.cnt = 1;
		memblock.reserved.total_size = 0;
		for (i = 0; i < oracle_request->reserved; i++)
			memblock_reserve(row[2 * i], row[2 * i + 1] - row[2 * i]);
	}
	__real_initmem_init();
	keep(0, &memblock.memory);
	keep(1, &memblock.reserved);
	seen.stage = 1;
}

extern void __real_acpi_boot_table_init(void);

void __wrap_acpi_boot_table_init(void)
{
	/* regions that outgrew the kernel's data are in memory, which is not kept */
	oracle_checkpoint(!in_memory(memblock.memory.regions) &&
			  !in_memory(memblock.reserved.regions));
	__real_acpi_boot_table_init();
}

static void (*pagetable_init)(void);

static void zones_then_leave(void)
{
	pagetable_init();
	if (mm_core_init_early)
		mm_core_init_early();
	seen.stage = 2;
	oracle_exit(END_DONE);
}

static void reserve_placed(void)
{
	const o64 *row = request_rows(&oracle_request->placed);
	o32 i;

	for (i = 0; i < oracle_request->placed; i++)
		memblock_reserve(row[2 * i], row[2 * i + 1] - row[2 * i]);
}

/* the memory map is decided and printed; struct pages are not there to be written */
extern char map_range[] __asm__("memmap_init_range") __weak; /* 5.10: memmap_init_zone */
extern char map_zone[] __asm__("memmap_init_zone") __weak;
static unsigned char map_holes_opcode __section(".host.bss");
extern char map_holes[] __asm__("init_unavailable_range") __weak;

#define RETURN 0xc3

/* `current`: a per-CPU variable, or the first field of one; only ever compared with NULL */
extern void *current_1 __asm__("current_task") __weak, *current_2 __asm__("const_current_task") __weak;
extern void *current_3 __asm__("pcpu_hot") __weak, *current_4 __asm__("const_pcpu_hot") __weak;
static char nobody[64];

/* In place of memmap_init_range(): writes to struct pages of a section that got no memory for them fault.
 * Of the highest zone of a node only the first section is written this early (defer_init()). */
static void struct_pages(unsigned long size, int nid, unsigned long zone, unsigned long start,
			 unsigned long zone_end)
{
	unsigned long end = start + size, pfn;

	if (zone_end >= pgdat_end_pfn(NODE_DATA(nid)))
		end = min(end, start + 1);
	for (pfn = start; pfn < end; pfn = (pfn | (PAGES_PER_SECTION - 1)) + 1)
		if (!valid_section(__pfn_to_section(pfn))) {
			last_words("BUG: unable to handle page fault for address: %px", pfn_to_page(pfn));
			oracle_exit(END_FAULT);
		}
}

static void divert(char *function)
{
	if (!function)
		return;
	function[0] = 0xe9; /* jmp */
	*(int *)(function + 1) = (char *)struct_pages - (function + 5);
}

void oracle_kernel_setup(void)
{
	void **currents[] = { &current_1, &current_2, &current_3, &current_4 };
	int i;

	preempt_count_set(1);
	clear_preempt_need_resched();
	divert(map_range);
	divert(map_zone);
	if (map_holes)
		map_holes_opcode = *map_holes;
	for (i = 0; i < ARRAY_SIZE(currents); i++)
		if (currents[i])
			*currents[i] = nobody;
	pagetable_init = x86_init.paging.pagetable_init;
	x86_init.paging.pagetable_init = zones_then_leave;
	x86_init.oem.arch_setup = reserve_placed;
}

void oracle_kernel_blobs(int remove)
{
	const char *at = (const char *)request_rows(&oracle_request->placed);
	o32 i;

	at += (oracle_request->placed + oracle_request->reserved) * 16;
	for (i = 0; i < oracle_request->blobs; i++) {
		const o64 *blob = (const o64 *)at;

		if (remove)
			memset(__va(blob[0]), 0, blob[1]);
		else
			memcpy(__va(blob[0]), blob + 2, blob[1]);
		at += 16 + ALIGN(blob[1], 8);
	}
}

void oracle_kernel_run(void)
{
	const char *at = (const char *)(oracle_request + 1);
	char *cmdline;

	memcpy(boot_command_line, at, oracle_request->cmdline);
	at += ALIGN(oracle_request->cmdline, 8);
	memcpy(boot_params.e820_table, at, oracle_request->e820 * 20);
	boot_params.e820_entries = oracle_request->e820;
	boot_params.acpi_rsdp_addr = oracle_request->rsdp;
	boot_params.hdr.version = 0x212;
	boot_params.hdr.type_of_loader = 0xb0;
	boot_params.hdr.ramdisk_image = oracle_request->initrd_start;
	boot_params.hdr.ramdisk_size = oracle_request->initrd_size;
	/* holes: all it decides is a line of the log */
	if (map_holes)
		*(volatile unsigned char *)map_holes = oracle_log_wanted ? map_holes_opcode : RETURN;
	x86_early_init_platform_quirks();
	setup_arch(&cmdline);
	oracle_exit(END_DONE);
}

/* --- the report */

extern unsigned long zone_movable_pfn[];
extern int numa_distance_cnt;
extern u8 *numa_distance;

/* Whether acpi_get_table() can have found an SRAT: one is listed and can be mapped. */
static bool srat_there(void)
{
	u32 i;

	for (i = 0; i < acpi_gbl_root_table_list.current_table_count; i++) {
		const struct acpi_table_desc *table = &acpi_gbl_root_table_list.tables[i];

		if (!ACPI_COMPARE_NAMESEG(table->signature.ascii, ACPI_SIG_SRAT))
			continue;
		return table->length &&
		       PAGE_ALIGN(offset_in_page(table->address) + table->length) >> PAGE_SHIFT <= EARLY_PAGES;
	}
	return false;
}

static int last_node(nodemask_t mask)
{
	int nid, last = 0;

	for_each_node_mask(nid, mask)
		last = nid;
	return last;
}

static int put_memblock(int which, int words)
{
	int i;

	for (i = 0; i < after_numa_count[which]; i++) {
		const struct memblock_region *region = &after_numa[which][i];
		int nid = memblock_get_region_node(region);
		o64 row[4] = { region->base, region->base + region->size,
			       nid < 0 || nid >= MAX_NUMNODES ? ~0UL : nid, region->flags };

		oracle_put(row, 8 * words);
	}
	return after_numa_count[which];
}

void oracle_kernel_report(void)
{
	struct oracle_response *to = oracle_response;
	int nid, zone, i;

	to->stage = seen.stage;
	to->state = seen.state;
	to->reason = seen.reason;
	if (seen.state == STATE_DUMMY && !seen.reason)
		to->reason = srat_there() ? REASON_NO_MEMORY : REASON_NO_SRAT;
	if (!seen.stage)
		return;
	to->memory = put_memblock(0, 4);
	to->reserved = put_memblock(1, 3);
	to->node_data = seen.nodes;
	for (i = 0; i < seen.nodes; i++)
		oracle_put(seen.node_data[i], 32);
	if (seen.stage == 2) {
		for (nid = 0; nid < MAX_NUMNODES; nid++)
			if (zone_movable_pfn[nid]) {
				o64 row[2] = { nid, zone_movable_pfn[nid] };

				oracle_put(row, sizeof(row));
				to->movable++;
			}
		for_each_online_node(nid)
			for (zone = 0; zone < MAX_NR_ZONES; zone++) {
				const struct zone *z = NODE_DATA(nid)->node_zones + zone;
				o64 row[3] = { nid << 8 | zone, z->zone_start_pfn,
					       z->zone_start_pfn + z->spanned_pages };

				if (!z->present_pages)
					continue;
				oracle_put(row, sizeof(row));
				to->zones++;
			}
	}
	for (i = 0; i < MAX_PXM_DOMAINS; i++) {
		o64 row[2] = { i, pxm_to_node(i) };

		if ((int)row[1] == NUMA_NO_NODE)
			continue;
		oracle_put(row, sizeof(row));
		to->pxm++;
	}
	to->nodes = last_node(node_states[N_POSSIBLE]) + 1;
	to->distances = numa_distance_cnt;
	oracle_put(numa_distance, (o64)numa_distance_cnt * numa_distance_cnt);
	oracle_put("\0\0\0\0\0\0\0", -((o64)numa_distance_cnt * numa_distance_cnt) & 7);
}
