/*
 * A share over D-Bus, by sd-bus: the same two calls as the broker's, written for speed.
 *
 *   service ADDRESS          keeps what Export brings until Import asks for it by its token
 *   importer ADDRESS         reads tokens from its input, and says with a byte when it has a buffer
 *   exporter ADDRESS FD FD   where tokens go, and where that byte comes from; reads how many shares
 *                            it is to make (u32), and writes how long they took (u64, nanoseconds)
 *   controller PATH          runs dbus-broker with a socket at PATH, which anyone may use
 *
 * Nothing is checked but that it works. Built by `cargo xtask bench`.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <systemd/sd-bus.h>
#include <time.h>
#include <unistd.h>

#define NAME "org.dmashare.Bench"
#define PATH "/org/dmashare/Bench"

/* As long as the broker's tokens, in hexadecimal digits. */
#define TOKEN 32

static _Noreturn void fail(int error, const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(error));
	exit(1);
}

/* sd-bus gives errors as negative numbers. */
static int good(int result, const char *what)
{
	if (result < 0)
		fail(-result, what);
	return result;
}

/* The kernel's calls give them in errno. */
static int done(ssize_t result, const char *what)
{
	if (result < 0)
		fail(errno, what);
	return (int)result;
}

static sd_bus *connect_to(const char *address)
{
	sd_bus *bus = NULL;

	good(sd_bus_new(&bus), "sd_bus_new");
	good(sd_bus_set_address(bus, address), "the address");
	good(sd_bus_set_bus_client(bus, 1), "a client");
	good(sd_bus_negotiate_fds(bus, 1), "descriptors");
	good(sd_bus_start(bus), "the bus");
	return bus;
}

/* The one buffer that is on its way: one share is made after the other. */
static int kept = -1;
static char kept_token[TOKEN + 1];

static int on_export(sd_bus_message *message, void *data, sd_bus_error *error)
{
	static uint64_t last;
	int fd;

	(void)data, (void)error;
	good(sd_bus_message_read(message, "h", &fd), "Export");
	if (kept >= 0)
		close(kept);
	kept = done(fcntl(fd, F_DUPFD_CLOEXEC, 3), "a descriptor");
	snprintf(kept_token, sizeof kept_token, "%0*" PRIx64, TOKEN, ++last);
	return sd_bus_reply_method_return(message, "s", kept_token);
}

static int on_import(sd_bus_message *message, void *data, sd_bus_error *error)
{
	const char *token;

	(void)data;
	good(sd_bus_message_read(message, "s", &token), "Import");
	if (strcmp(token, kept_token) != 0)
		return sd_bus_error_set_const(error, "org.dmashare.Bench.NoSuchToken", "no such token");
	return sd_bus_reply_method_return(message, "h", kept);
}

static const sd_bus_vtable service[] = {
	SD_BUS_VTABLE_START(0),
	SD_BUS_METHOD("Export", "h", "s", on_export, SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_METHOD("Import", "s", "h", on_import, SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_VTABLE_END,
};

static _Noreturn void loop(sd_bus *bus)
{
	for (;;) {
		if (good(sd_bus_process(bus, NULL), "the bus") == 0)
			good(sd_bus_wait(bus, UINT64_MAX), "the bus");
	}
}

static void say(int fd, const void *bytes, size_t size)
{
	if (write(fd, bytes, size) != (ssize_t)size)
		fail(errno, "the other side");
}

static void serve(const char *address)
{
	sd_bus *bus = connect_to(address);

	good(sd_bus_add_object_vtable(bus, NULL, PATH, NAME, service, NULL), "the object");
	good(sd_bus_request_name(bus, NAME, 0), "the name");
	say(STDOUT_FILENO, ".", 1);
	loop(bus);
}

static void import(const char *address)
{
	sd_bus *bus = connect_to(address);
	char token[TOKEN + 1] = "";

	say(STDOUT_FILENO, ".", 1);
	while (read(STDIN_FILENO, token, TOKEN) == TOKEN) {
		sd_bus_error error = SD_BUS_ERROR_NULL;
		sd_bus_message *answer = NULL;
		int fd;

		good(sd_bus_call_method(bus, NAME, PATH, NAME, "Import", &error, &answer, "s", token),
		     error.message ? error.message : "Import");
		good(sd_bus_message_read(answer, "h", &fd), "the answer to Import");
		say(STDOUT_FILENO, ".", 1);
		sd_bus_message_unref(answer);
	}
}

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * UINT64_C(1000000000) + (uint64_t)time.tv_nsec;
}

static void export(const char *address, int tokens, int words)
{
	sd_bus *bus = connect_to(address);
	int buffer = done(memfd_create("buffer", MFD_CLOEXEC), "a buffer");
	uint32_t count;

	say(STDOUT_FILENO, ".", 1);
	while (read(STDIN_FILENO, &count, sizeof count) == sizeof count) {
		uint64_t start = now(), took;

		while (count--) {
			sd_bus_error error = SD_BUS_ERROR_NULL;
			sd_bus_message *answer = NULL;
			const char *token;
			char word;

			good(sd_bus_call_method(bus, NAME, PATH, NAME, "Export", &error, &answer, "h",
						buffer),
			     error.message ? error.message : "Export");
			good(sd_bus_message_read(answer, "s", &token), "the answer to Export");
			say(tokens, token, TOKEN);
			sd_bus_message_unref(answer);
			if (read(words, &word, 1) != 1)
				fail(errno, "the importer");
		}
		took = now() - start;
		say(STDOUT_FILENO, &took, sizeof took);
	}
}

/* Everyone may connect, own any name, and send and receive anything. */
#define BATCH "bta(btbs)a(btssssuutt)a(btssssuutt)"
#define POLICY "a(u(" BATCH "))a(buu(" BATCH "))a(ss)"

/* What versions after that are told, too: no AppArmor, and which kind of bus it is. */
static const char *const later[] = { POLICY "bs", POLICY "b", POLICY };

static void allow_all(sd_bus_message *message, const char *policy)
{
	const char *rest = policy + strlen(POLICY);
	char *whole;

	if (asprintf(&whole, "(%s)", policy) < 0)
		fail(ENOMEM, "the policy");
	good(sd_bus_message_open_container(message, 'v', whole), "the policy");
	good(sd_bus_message_open_container(message, 'r', policy), "the policy");
	good(sd_bus_message_append(message, "a(u(" BATCH "))", 1, UINT32_MAX,
				   1, UINT64_C(1),
				   1, 1, UINT64_C(1), 1, "",
				   1, 1, UINT64_C(1), "", "", "", "", 0, 0, UINT64_C(0), UINT64_MAX,
				   1, 1, UINT64_C(1), "", "", "", "", 0, 0, UINT64_C(0), UINT64_MAX),
	     "who may do what");
	good(sd_bus_message_append(message, "a(buu(" BATCH "))a(ss)", 0, 0), "no more than that");
	if (rest[0] == 'b')
		good(sd_bus_message_append(message, "b", 0), "no AppArmor");
	if (rest[0] == 'b' && rest[1] == 's')
		good(sd_bus_message_append(message, "s", "session"), "the kind of bus");
	good(sd_bus_message_close_container(message), "the policy");
	good(sd_bus_message_close_container(message), "the policy");
	free(whole);
}

static int listen_at(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = done(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), "a socket");

	if (strlen(path) >= sizeof address.sun_path)
		fail(ENAMETOOLONG, path);
	strcpy(address.sun_path, path);
	done(bind(fd, (struct sockaddr *)&address, sizeof address), path);
	done(listen(fd, 64), path);
	return fd;
}

static void control(const char *path)
{
	int listener = listen_at(path), pair[2], result = -1;
	sd_bus *bus = NULL;

	done(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), "a pair");
	if (done(fork(), "fork") == 0) {
		char number[16];

		/* It ends with who has started it, however that ends. */
		done(prctl(PR_SET_PDEATHSIG, SIGKILL), "prctl");
		done(fcntl(pair[1], F_SETFD, 0), "a descriptor");
		snprintf(number, sizeof number, "%d", pair[1]);
		execlp("dbus-broker", "dbus-broker", "--controller", number, "--machine-id",
		       "0123456789abcdef0123456789abcdef", "--max-bytes", "1000000000", "--max-fds",
		       "10000", "--max-matches", "10000", (char *)NULL);
		fail(errno, "dbus-broker");
	}
	close(pair[1]);
	good(sd_bus_new(&bus), "sd_bus_new");
	good(sd_bus_set_fd(bus, pair[0], pair[0]), "the controller's socket");
	good(sd_bus_start(bus), "the controller");
	for (size_t i = 0; i < sizeof later / sizeof later[0] && result < 0; i++) {
		sd_bus_error error = SD_BUS_ERROR_NULL;
		sd_bus_message *message = NULL;

		good(sd_bus_message_new_method_call(bus, &message, NULL, "/org/bus1/DBus/Broker",
						    "org.bus1.DBus.Broker", "AddListener"),
		     "AddListener");
		good(sd_bus_message_append(message, "oh", "/org/bus1/DBus/Listener/0", listener),
		     "AddListener");
		allow_all(message, later[i]);
		result = sd_bus_call(bus, message, 0, &error, NULL);
		sd_bus_message_unref(message);
		sd_bus_error_free(&error);
	}
	good(result, "AddListener: another version of dbus-broker's interface");
	say(STDOUT_FILENO, ".", 1);
	loop(bus);
}

int main(int argc, char **argv)
{
	const char *what = argc > 2 ? argv[1] : "";

	/* It ends with the benchmark. */
	done(prctl(PR_SET_PDEATHSIG, SIGKILL), "prctl");
	if (strcmp(what, "service") == 0)
		serve(argv[2]);
	else if (strcmp(what, "importer") == 0)
		import(argv[2]);
	else if (strcmp(what, "exporter") == 0 && argc == 5)
		export(argv[2], atoi(argv[3]), atoi(argv[4]));
	else if (strcmp(what, "controller") == 0)
		control(argv[2]);
	else {
		fprintf(stderr, "usage: see the head of sd-bus.c\n");
		return 2;
	}
	return 0;
}
