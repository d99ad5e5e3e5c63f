/* See machine.h. */
#define _GNU_SOURCE
#include "machine.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[64];
static char path[160];
static pid_t broker;
static const char *current = "?";
static const char *variant = "plain";

void test_failed(const char *file, int line, const char *what)
{
	printf("FAILED c/%s/%s: %s:%d: %s; the library said: %s\n", variant, current, file, line, what,
	       dmashare_last_error());
	fflush(stdout);
	if (broker > 0)
		kill(broker, SIGKILL);
	_exit(1);
}

void test_is(const char *file, int line, const char *what, long long got, long long wanted)
{
	char text[512];

	if (got == wanted)
		return;
	snprintf(text, sizeof(text), "%s is %lld (%s), not %lld", what, got,
	         got < 0 && got > -4096 ? strerror((int)-got) : "a value", wanted);
	test_failed(file, line, text);
}

static const char *in_folder(const char *name)
{
	snprintf(path, sizeof(path), "%s/%s", folder, name);
	return path;
}

static void write_file(const char *name, const char *text)
{
	FILE *file = fopen(in_folder(name), "we");

	CHECK(file);
	CHECK(fputs(text, file) >= 0);
	CHECK(fclose(file) == 0);
}

static struct sockaddr_un address(const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	strcpy(address.sun_path, in_folder(name));
	return address;
}

static void send_to(const char *name, const char *data, size_t size)
{
	struct sockaddr_un to = address(name);
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	CHECK(fd >= 0);
	IS(sendto(fd, data, size, 0, (struct sockaddr *)&to, sizeof(to)), size);
	close(fd);
}

static void make_device(const char *name, const char *pci, bool removable)
{
	char file[64], text[128];

	snprintf(file, sizeof(file), "devices/%s", name);
	CHECK(mkdir(in_folder(file), 0755) == 0);
	snprintf(file, sizeof(file), "devices/%s/card0", name);
	write_file(file, "");
	snprintf(file, sizeof(file), "devices/%s/renderD128", name);
	write_file(file, "");
	snprintf(text, sizeof(text), "driver = \"sim\"\npci = \"%s\"\nremovable = %s\n", pci,
	         removable ? "true" : "false");
	snprintf(file, sizeof(file), "devices/%s/device.toml", name);
	write_file(file, text);
}

void machine_plug(void)
{
	make_device("egpu", "0000:06:00.0", true);
	send_to("udev.sock", "add", 3);
}

void machine_uevent(const char *action, const char *more, size_t more_size)
{
	char text[512];
	int size = snprintf(text, sizeof(text),
	                    "%s@/devices/sim/egpu/drm/card0%cACTION=%s%cDEVPATH=/devices/sim/egpu/drm/card0%c"
	                    "SUBSYSTEM=drm%cDEVTYPE=drm_minor%cDEVNAME=dri/card0%cSEQNUM=1%c",
	                    action, 0, action, 0, 0, 0, 0, 0, 0);

	CHECK(size > 0 && size + more_size < sizeof(text));
	memcpy(text + size, more, more_size);
	send_to("uevent.sock", text, size + more_size);
}

void machine_unplug(void)
{
	static const char *const files[] = { "card0", "renderD128", "device.toml" };
	char file[64];

	for (size_t i = 0; i < 3; i++) {
		snprintf(file, sizeof(file), "devices/egpu/%s", files[i]);
		CHECK(unlink(in_folder(file)) == 0);
	}
	CHECK(rmdir(in_folder("devices/egpu")) == 0);
	machine_uevent("remove", "", 0);
}

const char *machine_socket(void)
{
	return in_folder("broker.sock");
}

int machine_node(const char *device)
{
	char file[64];
	int fd;

	snprintf(file, sizeof(file), "devices/%s/renderD128", device);
	fd = open(in_folder(file), O_RDWR | O_CLOEXEC);
	CHECK(fd >= 0);
	return fd;
}

void machine_start_broker(void)
{
	const char *program = getenv("DMASHARED");
	struct sockaddr_un ready = address("notify.sock");
	struct pollfd pollfd = { .events = POLLIN };
	char message[256];
	int status;

	CHECK(program);
	unlink(ready.sun_path);
	pollfd.fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	CHECK(pollfd.fd >= 0);
	OK(bind(pollfd.fd, (struct sockaddr *)&ready, sizeof(ready)));
	broker = fork();
	CHECK(broker >= 0);
	if (broker == 0) {
		char bus[128], log_path[128], socket_path[128];
		int log;

		setenv("NOTIFY_SOCKET", ready.sun_path, 1);
		/* What checks this program is not to check that one. */
		unsetenv("LD_PRELOAD");
		unsetenv("LD_LIBRARY_PATH");
		snprintf(log_path, sizeof(log_path), "%s/log", folder);
		log = open(log_path, O_WRONLY | O_CREAT | O_APPEND, 0600);
		dup2(log, 1);
		dup2(log, 2);
		snprintf(bus, sizeof(bus), "unix:path=%s/no-bus", folder);
		snprintf(socket_path, sizeof(socket_path), "%s/broker.sock", folder);
		execl(program, program, "--bus", bus, "--socket", socket_path, "--state-dir", folder,
		      "--simulate", folder, (char *)NULL);
		_exit(127);
	}
	/* It says that it is ready, or ends. */
	for (;;) {
		int ended = poll(&pollfd, 1, 100);
		ssize_t size;

		if (ended == 0) {
			CHECK(waitpid(broker, &status, WNOHANG) == 0);
			continue;
		}
		size = recv(pollfd.fd, message, sizeof(message) - 1, 0);
		CHECK(size > 0);
		message[size] = 0;
		if (strncmp(message, "READY=1", 7) == 0)
			break;
	}
	close(pollfd.fd);
}

void machine_stop_broker(void)
{
	int status;

	kill(broker, SIGTERM);
	IS(waitpid(broker, &status, 0), broker);
	IS(status, 0);
	broker = 0;
}

static void machine_start(void)
{
	strcpy(folder, "/tmp/dmashare-c-XXXXXX");
	CHECK(mkdtemp(folder));
	CHECK(mkdir(in_folder("devices"), 0755) == 0);
	make_device("igpu", "0000:00:02.0", false);
	make_device("egpu", "0000:06:00.0", true);
	machine_start_broker();
}

static void machine_end(void)
{
	char command[96];

	machine_stop_broker();
	snprintf(command, sizeof(command), "rm -r %s", folder);
	OK(system(command));
}

int count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int count = 0;

	CHECK(dir);
	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

int run_tests(const char *file, const struct test *tests, size_t count)
{
	const char *only = getenv("TEST");
	char name[96];

	if (getenv("VARIANT"))
		variant = getenv("VARIANT");
	for (size_t i = 0; i < count; i++) {
		int before = count_fds();

		if (only && strcmp(only, tests[i].name) != 0)
			continue;
		snprintf(name, sizeof(name), "%s/%s", file, tests[i].name);
		current = name;
		if (tests[i].not_by_valgrind && strcmp(variant, "valgrind") == 0) {
			printf("skipped c/%s/%s: %s\n", variant, current, tests[i].not_by_valgrind);
			continue;
		}
		machine_start();
		tests[i].run();
		IS(dmashare_handle_count(), 0);
		machine_end();
		IS(count_fds(), before);
		printf("ok c/%s/%s\n", variant, current);
		fflush(stdout);
	}
	return 0;
}

struct dmashare_connection *connect_to_machine(void)
{
	struct dmashare_connection *connection = NULL;

	OK(dmashare_connect_to(machine_socket(), NULL, &connection));
	return connection;
}

int sim_buffer(size_t size, uint8_t fill)
{
	int fd = memfd_create("dmashare-sim-dmabuf", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	uint8_t *memory;

	CHECK(fd >= 0);
	OK(ftruncate(fd, (off_t)size));
	/* The mode by which the service knows it. */
	OK(fchmod(fd, 01600));
	OK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW));
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(memory != MAP_FAILED);
	memset(memory, fill, size);
	munmap(memory, size);
	return fd;
}

int sim_fence(void)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	CHECK(fd >= 0);
	return fd;
}

void sim_fence_end(int fence, int error)
{
	/* As uapi/src/sim.rs has it. */
	uint64_t count = UINT64_MAX - 0xffff + 1 + (uint64_t)error;

	IS(write(fence, &count, sizeof(count)), sizeof(count));
}

const struct dmashare_layout small = {
	.width = 16, .height = 16, .fourcc = XR24, .plane_count = 1, .planes = { { 0, 64 } },
};

struct dmashare_export *export_small(struct dmashare_connection *connection, uint8_t fill)
{
	int node = machine_node("egpu"), plane = sim_buffer(4096, fill);
	struct dmashare_export *buffer = NULL;

	OK(dmashare_export_buffer(connection, node, &small, &plane, &buffer));
	close(plane);
	close(node);
	return buffer;
}

struct dmashare_import *import_small(struct dmashare_connection *connection,
                                     struct dmashare_export *buffer)
{
	struct dmashare_import *import = NULL;
	struct dmashare_token token;

	OK(dmashare_export_grant(buffer, NULL, &token));
	OK(dmashare_import_buffer(connection, &token, DMASHARE_IMPORT_CPU, &import));
	return import;
}

static void added(void *data, struct dmashare_connection *connection, struct dmashare_device *device)
{
	struct told *told = data;

	(void)connection;
	told->added++;
	told->device = dmashare_device_id(device);
}

static void lost(void *data, struct dmashare_connection *connection, struct dmashare_lost *lost)
{
	struct told *told = data;

	(void)connection;
	told->lost++;
	told->info.version = DMASHARE_LOST_INFO_VERSION;
	OK(dmashare_lost_info(lost, &told->info));
	told->device = told->info.device;
}

static void gone(void *data, struct dmashare_connection *connection, uint64_t device)
{
	struct told *told = data;

	(void)connection;
	told->gone++;
	told->device = device;
}

static void wedged(void *data, struct dmashare_connection *connection,
                   const struct dmashare_wedged *wedged)
{
	struct told *told = data;

	(void)connection;
	told->wedged++;
	told->device = wedged->device;
}

static void disconnected(void *data, struct dmashare_connection *connection, int error)
{
	struct told *told = data;

	(void)connection;
	told->disconnected++;
	told->error = error;
}

static void removal(void *data, struct dmashare_connection *connection,
                    const struct dmashare_removal *removal)
{
	struct told *told = data;

	(void)connection;
	told->removal++;
	told->device = removal->device;
}

static void reconnected(void *data, struct dmashare_connection *connection,
                        const struct dmashare_reconnected *reconnected)
{
	struct told *told = data;

	(void)connection;
	(void)reconnected;
	told->reconnected++;
}

const struct dmashare_listener counting = {
	.version = DMASHARE_LISTENER_VERSION,
	.device_added = added,
	.device_lost = lost,
	.device_gone = gone,
	.device_wedged = wedged,
	.disconnected = disconnected,
	.removal_requested = removal,
	.reconnected = reconnected,
};

void dispatch_until(struct dmashare_connection *connection, const int *counter, int wanted)
{
	while (*counter < wanted)
		CHECK(dmashare_dispatch(connection, LONG) > 0);
}
