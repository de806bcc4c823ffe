/*
 * The first process of a guest: makes /proc and /sys visible, then answers file commands until the machine
 * is gone. What the files mean is the host's business. Commands arrive on the serial port that is also the
 * kernel's console; answers leave through QEMU's debug console, an I/O port the kernel knows nothing of. A
 * second serial port would grow the DSDT and with it move every ACPI table.
 *
 * A command is a line, a letter and its arguments separated by single spaces:
 *   l DIR          names in DIR, one per line
 *   r FILE         the contents of FILE
 *   e DIR FILE     "NAME CONTENTS" for each NAME in DIR that has a readable FILE in it
 *   w FILE TEXT    write TEXT to FILE in one write(2)
 * The answer is "ERRNO SIZE\n" and SIZE bytes; ERRNO is 0 where it worked. "0 0\n" greets the host.
 * A host that is silent for a minute is gone, and the machine is reset.
 */

#include <asm/termbits.h>
#include <asm/unistd.h>
#include <linux/fcntl.h>
#include <linux/ioctl.h>
#include <linux/reboot.h>

#define TCSETS 0x5402
#define PORT "/dev/ttyS0"
#define DEBUG_CONSOLE 0xe9
#define TENTHS_PER_READ 100
#define SILENT_READS 6

static char command[4096], path[4096], answer[1 << 20], entries[1 << 15];
static long used;

static long call(long number, long a, long b, long c, long d, long e)
{
	register long r10 __asm__("r10") = d, r8 __asm__("r8") = e;

	__asm__ volatile("syscall" : "+a"(number) : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return number;
}

static long length(const char *text)
{
	long n = 0;

	while (text[n])
		n++;
	return n;
}

static long open_file(const char *name, long flags)
{
	return call(__NR_open, (long)name, flags, 0, 0, 0);
}

static void close_file(long fd)
{
	call(__NR_close, fd, 0, 0, 0, 0);
}

static void put(const char *bytes, long size)
{
	for (long i = 0; i < size && used < (long)sizeof(answer); i++)
		answer[used++] = bytes[i];
}

static void send(const char *bytes, long size)
{
	__asm__ volatile("rep outsb" : "+S"(bytes), "+c"(size) : "d"(DEBUG_CONSOLE) : "memory");
}

static long number(char *end, unsigned long value)
{
	long n = 0;

	do {
		end[-++n] = '0' + value % 10;
		value /= 10;
	} while (value);
	return n;
}

static void reply(long error)
{
	char head[48], *end = head + sizeof(head), *at = end;

	*--at = '\n';
	at -= number(at, used);
	*--at = ' ';
	at -= number(at, error < 0 ? -error : 0);
	send(at, end - at);
	send(answer, used);
}

static long read_file(const char *name)
{
	long got, fd = open_file(name, O_RDONLY);

	if (fd < 0)
		return fd;
	while ((got = call(__NR_read, fd, (long)(answer + used), sizeof(answer) - used, 0, 0)) > 0)
		used += got;
	close_file(fd);
	return got;
}

static void join(const char *dir, const char *name, const char *file)
{
	const char *parts[] = { dir, "/", name, "/", file };
	long at = 0;

	for (int i = 0; i < 5; i++)
		for (const char *c = parts[i]; *c && at < (long)sizeof(path) - 1; c++)
			path[at++] = *c;
	path[at] = 0;
}

/* Names in `dir`, or with `file` the contents of that file in each. */
static long list(const char *dir, const char *file)
{
	long got, fd = open_file(dir, O_RDONLY | O_DIRECTORY);

	if (fd < 0)
		return fd;
	while ((got = call(__NR_getdents64, fd, (long)entries, sizeof(entries), 0, 0)) > 0) {
		for (long at = 0; at < got; at += *(unsigned short *)(entries + at + 16)) {
			const char *name = entries + at + 19;
			long before = used;

			if (name[0] == '.')
				continue;
			put(name, length(name));
			if (file) {
				put(" ", 1);
				join(dir, name, file);
				if (read_file(path) < 0) {
					used = before;
					continue;
				}
				while (used > before && answer[used - 1] == '\n')
					used--;
			}
			put("\n", 1);
		}
	}
	close_file(fd);
	return got;
}

static long write_file(const char *name, const char *text)
{
	long done, fd = open_file(name, O_WRONLY);

	if (fd < 0)
		return fd;
	done = call(__NR_write, fd, (long)text, length(text), 0, 0);
	close_file(fd);
	return done;
}

static char *argument(char *text)
{
	for (; *text; text++)
		if (*text == ' ') {
			*text = 0;
			return text + 1;
		}
	return text;
}

static long obey(char *first)
{
	char *second;

	if (!command[0] || command[1] != ' ')
		return -22;
	second = argument(first);
	switch (command[0]) {
	case 'l':
		return list(first, 0);
	case 'r':
		return read_file(first);
	case 'e':
		return list(first, second);
	case 'w':
		return write_file(first, second);
	}
	return -22;
}

static void mount(const char *type, const char *where)
{
	call(__NR_mkdir, (long)where, 0755, 0, 0, 0);
	call(__NR_mount, (long)type, (long)where, (long)type, 0, 0);
}

void _start(void)
{
	struct termios raw = { .c_cflag = B115200 | CS8 | CREAD | CLOCAL, .c_cc[VTIME] = TENTHS_PER_READ };
	long port, at = 0, silent = 0;

	mount("proc", "/proc");
	mount("sysfs", "/sys");
	port = open_file(PORT, O_RDONLY | O_NOCTTY);
	call(__NR_ioctl, port, TCSETS, (long)&raw, 0, 0);
	call(__NR_iopl, 3, 0, 0, 0, 0);
	reply(0);
	for (;;) {
		if (call(__NR_read, port, (long)(command + at), 1, 0, 0) != 1) {
			if (++silent == SILENT_READS)
				call(__NR_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2,
				     LINUX_REBOOT_CMD_RESTART, 0, 0);
			continue;
		}
		silent = 0;
		if (command[at] != '\n') {
			at += at < (long)sizeof(command) - 1;
			continue;
		}
		command[at] = 0;
		at = used = 0;
		reply(obey(command + 2));
	}
}
