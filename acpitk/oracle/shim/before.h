/* SPDX-License-Identifier: MIT */
/* Included before every kernel file: each function and variable gets a section of its own, so that the
 * linker can drop what is not reached, and a WARN or BUG is a call instead of a trap. */
#ifndef __ASSEMBLER__
#undef CONFIG_HAVE_JUMP_LABEL_HACK /* objtool is not run: branches that are off must be assembled so */

#include <linux/init.h>
#include <linux/bug.h>
#include <linux/cache.h>

#undef __init
#define __init 
#undef __initdata
#define __initdata
#undef __initconst
#define __initconst
#undef __meminit
#define __meminit 
#undef __meminitdata
#define __meminitdata
#undef __ref
#define __ref noinline
#undef __refdata
#define __refdata
#undef __exit
#define __exit __maybe_unused
#undef __ro_after_init
#define __ro_after_init
#undef __read_mostly
#define __read_mostly

/* the last argument is the flags in every version */
#define ORACLE_SECOND(a, b, ...) b
#define ORACLE_LAST(a, ...) ORACLE_SECOND(a, ##__VA_ARGS__, a)

extern void oracle_warn(const char *file, int line, const char *function);
extern void oracle_bug(const char *file, int line) __attribute__((noreturn));
#undef __WARN_FLAGS
#define __WARN_FLAGS(...) do {							\
	static _Bool oracle_once;						\
	if (!((ORACLE_LAST(__VA_ARGS__)) & BUGFLAG_ONCE) || !oracle_once) {	\
		oracle_once = 1;						\
		oracle_warn(__FILE__, __LINE__, __func__);			\
	}									\
} while (0)
#undef __WARN_printf
#define __WARN_printf(taint, ...) do {						\
	__warn_printk(__VA_ARGS__);						\
	oracle_warn(__FILE__, __LINE__, __func__);				\
} while (0)
#ifdef HAVE_ARCH_BUG_FORMAT_ARGS
#undef WARN_ONCE
#define WARN_ONCE(condition, ...) ({						\
	static _Bool oracle_once;						\
	_Bool oracle_warned = !!(condition);					\
	if (oracle_warned && !oracle_once) {					\
		oracle_once = 1;						\
		__WARN_printf(0, __VA_ARGS__);					\
	}									\
	oracle_warned;								\
})
#endif
#undef BUG
#define BUG() oracle_bug(__FILE__, __LINE__)
#endif
