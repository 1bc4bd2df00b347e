/* Builds a filter with libseccomp from lines on standard input and writes its instructions to standard output.
 *
 *   default ACTION            first line
 *   arch TOKEN                an architecture to have; the machine's own is there only when listed
 *   rule ACTION NAME COUNT (ARGUMENT OPERATOR FIRST SECOND)*
 *
 * Names that libseccomp does not know are listed on standard error, one on each line. */

#include <errno.h>
#include <seccomp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void fail(const char *what, int code)
{
	fprintf(stdout, "%s: %s\n", what, strerror(-code));
	exit(1);
}

int main(void)
{
	scmp_filter_ctx filter = NULL;
	char keyword[16], name[128];
	uint32_t number, count;
	int native_listed = 0, code;

	while (scanf("%15s %" SCNu32, keyword, &number) == 2) {
		if (!strcmp(keyword, "default")) {
			filter = seccomp_init(number);
			if (!filter)
				fail("init", -EINVAL);
			code = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
			if (code)
				fail("bad architecture action", code);
		} else if (!strcmp(keyword, "arch")) {
			if (number == seccomp_arch_native())
				native_listed = 1;
			code = seccomp_arch_add(filter, number);
			if (code && code != -EEXIST)
				fail("arch", code);
		} else if (!strcmp(keyword, "ready")) {
			if (!native_listed) {
				code = seccomp_arch_remove(filter, SCMP_ARCH_NATIVE);
				if (code)
					fail("remove native", code);
			}
		} else if (!strcmp(keyword, "rule")) {
			struct scmp_arg_cmp arguments[6];
			if (scanf("%127s %" SCNu32, name, &count) != 2 || count > 6)
				fail("rule line", -EINVAL);
			for (uint32_t at = 0; at < count; at++) {
				unsigned op;
				if (scanf("%u %u %" SCNu64 " %" SCNu64, &arguments[at].arg, &op, &arguments[at].datum_a,
					  &arguments[at].datum_b) != 4)
					fail("argument", -EINVAL);
				arguments[at].op = op;
			}
			int call = seccomp_syscall_resolve_name(name);
			if (call == __NR_SCMP_ERROR) {
				fprintf(stderr, "%s\n", name);
				continue;
			}
			code = seccomp_rule_add_array(filter, number, call, count, arguments);
			if (code)
				fail(name, code);
		}
	}
	code = seccomp_export_bpf(filter, 1);
	if (code)
		fail("export", code);
	seccomp_release(filter);
	return 0;
}
