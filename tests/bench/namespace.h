/* Network namespaces by name.  A socket stays in the namespace its thread was in when it was made. */
#ifndef BENCH_NAMESPACE_H
#define BENCH_NAMESPACE_H

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include "fail.h"

static inline void enter_namespace(const char *name)
{
	char path[256];
	int fd;

	snprintf(path, sizeof path, "/var/run/netns/%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNET) < 0)
		fail(path);
	close(fd);
}

#endif
