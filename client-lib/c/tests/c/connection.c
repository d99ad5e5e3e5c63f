/* Connecting, events, errors. */
#define _GNU_SOURCE
#include "machine.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int raw_socket(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	strcpy(address.sun_path, machine_socket());
	OK(connect(fd, (struct sockaddr *)&address, sizeof(address)));
	return fd;
}

static void every_way_to_connect(void)
{
	struct dmashare_connect_options options = {
		.version = DMASHARE_CONNECT_OPTIONS_VERSION, .name = "c-test", .patience_ns = LONG,
	};
	struct dmashare_connection *by_path, *by_environment, *by_fd;
	uint8_t a[16] = { 0 }, b[16] = { 1 };
	struct pollfd poll_it = { .events = POLLIN };

	OK(dmashare_connect_to(machine_socket(), &options, &by_path));
	setenv("DMASHARE_SOCKET", machine_socket(), 1);
	OK(dmashare_connect(NULL, &by_environment));
	OK(dmashare_connect_take_fd(raw_socket(), &options, &by_fd));
	CHECK(by_path != by_environment && by_environment != by_fd);

	OK(dmashare_connection_instance(by_path, a));
	OK(dmashare_connection_instance(by_fd, b));
	CHECK(memcmp(a, b, sizeof(a)) == 0);
	IS(dmashare_connection_guard(by_path), DMASHARE_GUARD_SIMULATED);
	IS(dmashare_connection_is_closed(by_path), 0);
	poll_it.fd = dmashare_connection_fd(by_path);
	CHECK(poll_it.fd >= 0);
	IS(poll(&poll_it, 1, 0), 0);
	IS(dmashare_dispatch(by_path, 0), 0);

	OK(dmashare_connection_destroy(by_path));
	OK(dmashare_connection_destroy(by_environment));
	OK(dmashare_connection_destroy(by_fd));
}

static void what_cannot_be_connected_to(void)
{
	struct dmashare_connect_options options = { .version = DMASHARE_CONNECT_OPTIONS_VERSION };
	struct dmashare_connection *connection = NULL;
	char long_name[100];
	int pair[2], before = count_fds();

	IS(dmashare_connect_to("/nowhere/broker.sock", NULL, &connection), -ENOENT);
	CHECK(strstr(dmashare_last_error(), "cannot connect"));
	memset(long_name, 'x', sizeof(long_name));
	long_name[99] = 0;
	options.name = long_name;
	IS(dmashare_connect_to(machine_socket(), &options, &connection), -EINVAL);
	options.name = "\xff\xfe";
	IS(dmashare_connect_to(machine_socket(), &options, &connection), -EINVAL);
	options.name = NULL;
	options.version = 0;
	IS(dmashare_connect_to(machine_socket(), &options, &connection), -EINVAL);
	/* It is closed, whatever is wrong with it. */
	OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	IS(dmashare_connect_take_fd(pair[0], NULL, &connection), -EINVAL);
	close(pair[1]);
	OK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	close(pair[1]);
	CHECK(dmashare_connect_take_fd(pair[0], NULL, &connection) < 0);
	IS(count_fds(), before);
	/* A broker that does not answer. */
	OK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	options.version = DMASHARE_CONNECT_OPTIONS_VERSION;
	options.patience_ns = 1;
	IS(dmashare_connect_take_fd(pair[0], &options, &connection), -ETIMEDOUT);
	close(pair[1]);
	CHECK(!connection);
}

static void devices_come_and_go(void)
{
	struct dmashare_connection *connection = connect_to_machine();
	struct dmashare_device_list *list;
	struct dmashare_device *device, *same;
	struct told told = { 0 };
	bool found = false;

	OK(dmashare_connection_set_listener(connection, &counting, &told));
	OK(dmashare_list_devices(connection, &list));
	IS(dmashare_device_list_count(list), 2);
	IS(dmashare_device_list_get(list, 2, &device), -EINVAL);
	for (size_t i = 0; i < 2; i++) {
		OK(dmashare_device_list_get(list, i, &device));
		CHECK(strcmp(dmashare_device_driver(device), "sim") == 0);
		IS(dmashare_device_node_count(device), 2);
		CHECK(strstr(dmashare_device_node(device, 0), "/card0"));
		CHECK(!dmashare_device_node(device, 2));
		IS(dmashare_device_state(device), DMASHARE_DEVICE_PRESENT);
		if (strcmp(dmashare_device_pci(device), "0000:06:00.0") == 0) {
			found = true;
			IS(dmashare_device_is_removable(device), 1);
			OK(dmashare_device_dup(device, &same));
		} else {
			IS(dmashare_device_is_removable(device), 0);
		}
		OK(dmashare_device_destroy(device));
	}
	CHECK(found);
	/* They outlive the list. */
	OK(dmashare_device_list_destroy(list));
	IS(dmashare_device_wait_lost(same, 0), 0);
	IS(dmashare_device_is_lost(same), 0);

	machine_unplug();
	IS(dmashare_device_wait_lost(same, LONG), 1);
	dispatch_until(connection, &told.gone, 1);
	IS(told.lost, 1);
	IS(told.device, dmashare_device_id(same));
	IS(told.info.cause, DMASHARE_CAUSE_UNPLUGGED);
	CHECK(strcmp(dmashare_cause_name(told.info.cause), "unplugged") == 0);
	CHECK(told.info.at_ns > 0);
	IS(told.info.awaited, 0);
	IS(dmashare_device_state(same), DMASHARE_DEVICE_GONE);

	machine_plug();
	dispatch_until(connection, &told.added, 1);
	CHECK(told.device != dmashare_device_id(same));

	static const char words[] = "WEDGED=rebind,bus-reset";
	machine_uevent("change", words, sizeof(words));
	dispatch_until(connection, &told.wedged, 1);
	static const char synthetic[] = "SYNTH_UUID=0";
	machine_uevent("remove", synthetic, sizeof(synthetic));
	dispatch_until(connection, &told.removal, 1);
	OK(dmashare_device_destroy(same));
	OK(dmashare_connection_destroy(connection));
}

/* As a program has it that was compiled when there was no more: behind it, nothing can be read. */
static void a_shorter_listener_works(void)
{
	struct dmashare_connection *connection = connect_to_machine();
	size_t size = offsetof(struct dmashare_listener, removal_requested);
	long page = sysconf(_SC_PAGESIZE);
	char *memory = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct dmashare_listener *old;
	struct told told = { 0 };
	static const char synthetic[] = "SYNTH_UUID=0";

	CHECK(memory != MAP_FAILED);
	OK(mprotect(memory + page, page, PROT_NONE));
	old = (struct dmashare_listener *)(memory + page - size);
	memcpy(old, &counting, size);
	old->version = 1;
	OK(dmashare_connection_set_listener(connection, old, &told));
	/* It was copied. */
	munmap(memory, 2 * page);
	machine_uevent("remove", synthetic, sizeof(synthetic));
	machine_unplug();
	dispatch_until(connection, &told.gone, 1);
	IS(told.lost, 1);
	IS(told.removal, 0);
	/* One from the future is read as far as it is known. */
	struct dmashare_listener future = counting;
	future.version = 77;
	OK(dmashare_connection_set_listener(connection, &future, &told));
	machine_plug();
	dispatch_until(connection, &told.added, 1);
	future.version = 0;
	IS(dmashare_connection_set_listener(connection, &future, &told), -EINVAL);
	OK(dmashare_connection_set_listener(connection, NULL, NULL));
	OK(dmashare_connection_destroy(connection));
}

static void the_broker_goes(void)
{
	struct dmashare_connection *connection = connect_to_machine();
	struct dmashare_error_info info = { .version = DMASHARE_ERROR_INFO_VERSION };
	struct dmashare_device_list *list = NULL;
	struct told told = { 0 };

	OK(dmashare_connection_set_listener(connection, &counting, &told));
	machine_stop_broker();
	IS(dmashare_dispatch(connection, LONG), -ECONNRESET);
	IS(told.disconnected, 1);
	IS(told.error, -ECONNRESET);
	IS(dmashare_connection_is_closed(connection), 1);
	OK(dmashare_last_error_info(&info));
	IS(info.error, -ECONNRESET);
	IS(info.disconnected, 1);
	IS(info.device_lost, 0);
	IS(dmashare_dispatch(connection, 0), -ECONNRESET);
	IS(told.disconnected, 1);
	IS(dmashare_list_devices(connection, &list), -ECONNRESET);
	OK(dmashare_connection_destroy(connection));
	machine_start_broker();
}

static void the_connection_is_made_anew(void)
{
	struct dmashare_connect_options options = {
		.version = DMASHARE_CONNECT_OPTIONS_VERSION, .reconnect = 1,
	};
	struct dmashare_connection *connection;
	struct dmashare_export *buffer;
	struct told told = { 0 };
	int fd;

	OK(dmashare_connect_to(machine_socket(), &options, &connection));
	OK(dmashare_connection_set_listener(connection, &counting, &told));
	fd = dmashare_connection_fd(connection);
	buffer = export_small(connection, 1);
	machine_stop_broker();
	dispatch_until(connection, &told.disconnected, 1);
	IS(told.error, -ECONNRESET);
	machine_start_broker();
	dispatch_until(connection, &told.reconnected, 1);
	IS(dmashare_connection_fd(connection), fd);
	IS(dmashare_export_release(buffer), -ECONNRESET);
	buffer = export_small(connection, 1);
	OK(dmashare_export_release(buffer));
	OK(dmashare_connection_destroy(connection));
}

static void *fail_elsewhere(void *unused)
{
	struct dmashare_connection *connection;

	(void)unused;
	CHECK(strcmp(dmashare_last_error(), "") == 0);
	IS(dmashare_connect_to("/nowhere", NULL, &connection), -ENOENT);
	return NULL;
}

static void errors_are_a_thread_s_own(void)
{
	struct dmashare_error_info info = { .version = DMASHARE_ERROR_INFO_VERSION };
	pthread_t thread;

	IS(dmashare_connection_destroy(NULL), -EINVAL);
	CHECK(strcmp(dmashare_last_error(), "NULL is no connection") == 0);
	OK(pthread_create(&thread, NULL, fail_elsewhere, NULL));
	OK(pthread_join(thread, NULL));
	CHECK(strcmp(dmashare_last_error(), "NULL is no connection") == 0);
	OK(dmashare_last_error_info(&info));
	IS(info.error, -EINVAL);
	IS(info.code, 0);
	info.version = 0;
	IS(dmashare_last_error_info(&info), -EINVAL);
	CHECK(strcmp(dmashare_cause_name((enum dmashare_cause)99), "unknown") == 0);
	CHECK(strcmp(dmashare_version(), PKG_VERSION) == 0);
}

static void what_a_process_says_of_itself(void)
{
	struct dmashare_connection *connection = connect_to_machine();
	struct dmashare_inhibitor *inhibitor = NULL;

	OK(dmashare_declare(connection, DMASHARE_LOSS_RELAUNCH, 1));
	IS(dmashare_declare(connection, (enum dmashare_loss)4, 0), -EINVAL);
	OK(dmashare_inhibit(connection, 0, DMASHARE_INHIBIT_DELAY, "a film is saved", &inhibitor));
	CHECK(dmashare_inhibitor_id(inhibitor) != 0);
	OK(dmashare_inhibitor_release(inhibitor));
	OK(dmashare_inhibit(connection, 0, DMASHARE_INHIBIT_BLOCK, "a game runs", &inhibitor));
	OK(dmashare_inhibitor_destroy(inhibitor));
	IS(dmashare_inhibit(connection, 0, DMASHARE_INHIBIT_DELAY, "", &inhibitor), -EINVAL);
	IS(dmashare_inhibit(connection, 0, (enum dmashare_inhibit_mode)2, "?", &inhibitor), -EINVAL);
	IS(dmashare_inhibit(connection, 987654, DMASHARE_INHIBIT_DELAY, "?", &inhibitor), -ENXIO);
	OK(dmashare_connection_destroy(connection));
}

int main(void)
{
	static const struct test tests[] = {
		TEST(every_way_to_connect),
		TEST(what_cannot_be_connected_to),
		TEST(devices_come_and_go),
		TEST(a_shorter_listener_works),
		TEST(the_broker_goes),
		TEST_BUT_NOT_BY_VALGRIND(the_connection_is_made_anew,
		                         "valgrind knows no mremap that duplicates a mapping"),
		TEST(errors_are_a_thread_s_own),
		TEST(what_a_process_says_of_itself),
	};

	return run_tests("connection", tests, sizeof(tests) / sizeof(*tests));
}
