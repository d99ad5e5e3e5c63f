/* Buffers: exported, imported, mapped, neutral; and what becomes of them when the eGPU is pulled. */
#define _GNU_SOURCE
#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

static void a_buffer_is_shared(void)
{
	struct dmashare_connection *producer = connect_to_machine(), *consumer = connect_to_machine();
	struct dmashare_export *buffer = export_small(producer, 0x5a);
	struct dmashare_import *import;
	struct dmashare_mapping *mapping;
	struct dmashare_device *device;
	struct dmashare_layout layout;
	struct dmashare_token token, same;
	struct dmashare_grant grant = {
		.version = DMASHARE_GRANT_VERSION, .to = DMASHARE_GRANT_ANYONE, .uses = 2, .ttl_ns = LONG,
	};
	uint8_t bytes[4096];
	char hex[33];
	int node = machine_node("igpu");

	CHECK(dmashare_export_id(buffer) != 0);
	IS(dmashare_export_is_lost(buffer), 0);
	OK(dmashare_export_grant(buffer, &grant, &token));
	OK(dmashare_token_to_hex(&token, hex));
	IS(strlen(hex), 32);
	OK(dmashare_token_from_hex(hex, &same));
	CHECK(memcmp(&token, &same, sizeof(token)) == 0);
	IS(dmashare_token_from_hex("nonsense", &same), -EINVAL);

	OK(dmashare_import_buffer(consumer, &same, node, &import));
	CHECK(dmashare_import_id(import) != dmashare_import_buffer_id(import));
	IS(dmashare_import_buffer_id(import), dmashare_export_id(buffer));
	OK(dmashare_import_device(import, &device));
	CHECK(strcmp(dmashare_device_driver(device), "") == 0);
	IS(dmashare_device_is_lost(device), 0);
	OK(dmashare_device_destroy(device));
	OK(dmashare_export_device(buffer, &device));
	OK(dmashare_device_destroy(device));
	OK(dmashare_import_layout(import, &layout));
	CHECK(memcmp(&layout, &small, sizeof(layout)) == 0);
	IS(dmashare_import_plane_size(import, 0), 4096);
	IS(dmashare_import_plane_size(import, 1), 0);
	IS(dmashare_import_needs_cpu_sync(import), 0);

	OK(dmashare_import_map(import, 0, DMASHARE_READ_WRITE, &mapping));
	IS(dmashare_mapping_size(mapping), 4096);
	IS(dmashare_mapping_protection(mapping), DMASHARE_READ_WRITE);
	IS(dmashare_mapping_is_revoked(mapping), 0);
	OK(dmashare_mapping_begin(mapping, DMASHARE_ACCESS_READ));
	OK(dmashare_mapping_copy_out(mapping, 0, bytes, sizeof(bytes)));
	OK(dmashare_mapping_end(mapping, DMASHARE_ACCESS_READ));
	CHECK(bytes[0] == 0x5a && bytes[4095] == 0x5a);
	CHECK(((uint8_t *)dmashare_mapping_pointer(mapping))[17] == 0x5a);
	OK(dmashare_mapping_begin(mapping, DMASHARE_ACCESS_WRITE));
	OK(dmashare_mapping_copy_in(mapping, 4095, "!", 1));
	OK(dmashare_mapping_end(mapping, DMASHARE_ACCESS_WRITE));
	CHECK(((uint8_t *)dmashare_mapping_pointer(mapping))[4095] == '!');
	IS(dmashare_mapping_copy_in(mapping, 4095, "!!", 2), -EINVAL);
	IS(dmashare_mapping_copy_out(mapping, SIZE_MAX, bytes, 2), -EINVAL);
	IS(dmashare_mapping_copy_out(mapping, 0, bytes, SIZE_MAX), -EINVAL);
	IS(dmashare_mapping_begin(mapping, (enum dmashare_access)0), -EINVAL);
	OK(dmashare_mapping_destroy(mapping));

	IS(dmashare_import_map_range(import, 0, 1, 16, DMASHARE_READ_ONLY, &mapping), -EINVAL);
	IS(dmashare_import_map_range(import, 0, 0, 4097, DMASHARE_READ_ONLY, &mapping), -EINVAL);
	IS(dmashare_import_map_range(import, 1, 0, 16, DMASHARE_READ_ONLY, &mapping), -EINVAL);
	IS(dmashare_import_map(import, 0, (enum dmashare_protection)7, &mapping), -EINVAL);
	OK(dmashare_import_map_range(import, 0, 0, 16, DMASHARE_READ_ONLY, &mapping));
	IS(dmashare_mapping_size(mapping), 16);
	IS(dmashare_mapping_copy_in(mapping, 0, "!", 1), -EINVAL);
	/* It is given back with its mapping, and the handle is gone. */
	IS(dmashare_import_release(import), -EBUSY);
	IS(dmashare_import_release(import), -EINVAL);
	OK(dmashare_mapping_destroy(mapping));

	OK(dmashare_import_buffer(consumer, &token, DMASHARE_IMPORT_CPU, &import));
	OK(dmashare_import_release(import));
	/* It was for two. */
	IS(dmashare_import_buffer(consumer, &token, DMASHARE_IMPORT_CPU, &import), -EACCES);
	grant.to = 9;
	IS(dmashare_export_grant(buffer, &grant, &token), -EINVAL);
	grant.to = DMASHARE_GRANT_UID;
	grant.uid = getuid();
	grant.uses = 0;
	IS(dmashare_export_grant(buffer, &grant, &token), -EINVAL);
	grant.uses = 1;
	grant.ttl_ns = -1;
	IS(dmashare_export_grant(buffer, &grant, &token), -EINVAL);
	OK(dmashare_export_release(buffer));
	OK(dmashare_connection_destroy(producer));
	OK(dmashare_connection_destroy(consumer));
	close(node);
}

struct lent {
	struct dmashare_import *import;
	int fd, calls;
};

static int is_a_buffer(int fd, void *data)
{
	struct lent *lent = data;
	char byte = 0;

	lent->fd = fd;
	lent->calls++;
	IS(pread(fd, &byte, 1, 0), 1);
	IS(byte, 0x11);
	IS(fcntl(fd, F_GETFD), FD_CLOEXEC);
	/* It stays open until this returns. */
	OK(dmashare_import_destroy(lent->import));
	IS(pread(fd, &byte, 1, 0), 1);
	return 42;
}

static void planes_are_lent_and_duplicated(void)
{
	struct dmashare_connection *connection = connect_to_machine();
	struct dmashare_export *buffer = export_small(connection, 0x11);
	struct lent lent = { import_small(connection, buffer), -1, 0 };
	char byte = 0;
	int dup;

	IS(dmashare_import_with_plane_fd(lent.import, 1, is_a_buffer, &lent), -EINVAL);
	IS(lent.calls, 0);
	dup = dmashare_import_dup_plane_fd(lent.import, 0);
	CHECK(dup >= 0);
	IS(fcntl(dup, F_GETFD), FD_CLOEXEC);
	IS(dmashare_import_with_plane_fd(lent.import, 0, is_a_buffer, &lent), 42);
	IS(fcntl(lent.fd, F_GETFD), -1);
	IS(pread(dup, &byte, 1, 0), 1);
	IS(byte, 0x11);
	close(dup);
	OK(dmashare_export_destroy(buffer));
	OK(dmashare_connection_destroy(connection));
}

struct keeper {
	struct dmashare_lost *lost;
	uint64_t import;
	struct dmashare_mapping *mapping;
	int calls;
};

static void keep(void *data, struct dmashare_connection *connection, struct dmashare_lost *lost)
{
	struct keeper *keeper = data;
	struct dmashare_lost_info info = { .version = DMASHARE_LOST_INFO_VERSION };
	uint64_t import;
	int error;

	(void)connection;
	keeper->calls++;
	OK(dmashare_lost_info(lost, &info));
	IS(info.cause, DMASHARE_CAUSE_UNPLUGGED);
	IS(info.imports, 1);
	IS(info.buffers, 1);
	IS(info.failed, 0);
	IS(info.awaited, 1);
	IS(dmashare_lost_import(lost, 0), keeper->import);
	IS(dmashare_lost_import(lost, 1), 0);
	IS(dmashare_lost_failed(lost, 0, &import, &error), -EINVAL);
	IS(dmashare_mapping_is_revoked(keeper->mapping), 1);
	OK(dmashare_lost_take(lost));
	keeper->lost = lost;
}

static void the_card_is_pulled(void)
{
	struct dmashare_connection *connection = connect_to_machine();
	struct dmashare_export *buffer = export_small(connection, 0x77);
	struct dmashare_import *import = import_small(connection, buffer);
	struct dmashare_error_info info = { .version = DMASHARE_ERROR_INFO_VERSION };
	struct dmashare_listener listener = { .version = 1, .device_lost = keep };
	struct keeper keeper = { NULL, dmashare_import_id(import), NULL, 0 };
	struct dmashare_mapping *mapping;
	struct told told = { 0 };
	uint8_t *memory;
	int fds, node = machine_node("egpu");

	OK(dmashare_import_map(import, 0, DMASHARE_READ_ONLY, &mapping));
	keeper.mapping = mapping;
	memory = dmashare_mapping_pointer(mapping);
	CHECK(memory[5] == 0x77);
	OK(dmashare_mapping_begin(mapping, DMASHARE_ACCESS_READ));
	/* A file stands for the node here, and takes no ioctl. */
	IS(dmashare_mapping_end_checked(mapping, DMASHARE_ACCESS_READ, node), -ENOTTY);
	IS(dmashare_mapping_end_checked(mapping, DMASHARE_ACCESS_READ, -1), -EBADF);
	OK(dmashare_connection_set_listener(connection, &listener, &keeper));
	fds = count_fds();
	OK(dmashare_mapping_begin(mapping, DMASHARE_ACCESS_READ));
	machine_unplug();
	while (keeper.calls == 0)
		CHECK(dmashare_dispatch(connection, LONG) >= 0);
	/* The access that was under way is worth nothing. */
	IS(dmashare_mapping_end(mapping, DMASHARE_ACCESS_READ), -ENODEV);
	IS(dmashare_mapping_begin(mapping, DMASHARE_ACCESS_READ), -ENODEV);
	OK(dmashare_last_error_info(&info));
	IS(info.device_lost, 1);
	IS(info.cause, DMASHARE_CAUSE_UNPLUGGED);
	CHECK(info.device != 0);
	CHECK(strstr(dmashare_last_error(), "is lost (unplugged)"));
	CHECK(memory[0] == 0 && memory[4095] == 0);
	IS(dmashare_import_is_lost(import), 1);
	IS(dmashare_export_is_lost(buffer), 1);
	IS(dmashare_import_dup_plane_fd(import, 0), -ENODEV);
	IS(count_fds(), fds - 1);

	/* Not gone before it is acknowledged. */
	listener = counting;
	OK(dmashare_connection_set_listener(connection, &listener, &told));
	IS(dmashare_dispatch(connection, 0), 0);
	OK(dmashare_lost_acknowledge(keeper.lost));
	IS(dmashare_lost_acknowledge(keeper.lost), -EINVAL);
	dispatch_until(connection, &told.gone, 1);
	IS(told.lost, 0);
	IS(dmashare_export_release(buffer), 0);
	IS(dmashare_import_release(import), -EBUSY);
	CHECK(memory[9] == 0);
	OK(dmashare_mapping_destroy(mapping));
	OK(dmashare_connection_destroy(connection));
	close(node);
}

/* Whoever sets no listener, or takes nothing, has acknowledged when the callback has returned. */
static void a_loss_that_is_not_taken_is_acknowledged(void)
{
	struct dmashare_connection *connection = connect_to_machine();
	struct told told = { 0 };

	for (int round = 0; round < 2; round++) {
		struct dmashare_export *buffer = export_small(connection, 1);
		struct dmashare_import *import = import_small(connection, buffer);
		struct dmashare_listener listener = counting;

		told.gone = 0;
		if (round == 1)
			listener.device_lost = NULL;
		OK(dmashare_connection_set_listener(connection, &listener, &told));
		machine_unplug();
		dispatch_until(connection, &told.gone, 1);
		IS(told.lost, 1);
		OK(dmashare_import_release(import));
		OK(dmashare_export_destroy(buffer));
		machine_plug();
		dispatch_until(connection, &told.added, round + 1);
	}
	OK(dmashare_connection_destroy(connection));
}

struct moved {
	struct dmashare_neutral *copy;
	uint64_t import;
	int calls;
};

static void move_over(void *data, struct dmashare_connection *connection,
                      const struct dmashare_removal *removal)
{
	struct moved *moved = data;

	(void)connection;
	moved->calls++;
	CHECK(removal->device != 0);
	CHECK(strlen(removal->why) > 0);
	IS(removal->preserved_count, 1);
	IS(removal->preserved[0].import, moved->import);
	IS(removal->preserved[0].error, 0);
	moved->copy = removal->preserved[0].copy;
}

static uint8_t first_byte(struct dmashare_neutral *buffer)
{
	struct dmashare_mapping *mapping;
	uint8_t byte = 0;

	OK(dmashare_neutral_map(buffer, 0, DMASHARE_READ_ONLY, &mapping));
	OK(dmashare_mapping_begin(mapping, DMASHARE_ACCESS_READ));
	OK(dmashare_mapping_copy_out(mapping, 0, &byte, 1));
	OK(dmashare_mapping_end(mapping, DMASHARE_ACCESS_READ));
	OK(dmashare_mapping_destroy(mapping));
	return byte;
}

static int any_fd(int fd, void *data)
{
	(void)data;
	return fcntl(fd, F_GETFD);
}

static void neutral_buffers_stay(void)
{
	static const char synthetic[] = "SYNTH_UUID=0";
	struct dmashare_connection *connection = connect_to_machine();
	struct dmashare_export *buffer = export_small(connection, 0x33);
	struct dmashare_import *import = import_small(connection, buffer), *again;
	struct dmashare_listener listener = counting;
	struct dmashare_neutral *own, *copy;
	struct dmashare_mapping *mapping;
	struct dmashare_device *device;
	struct dmashare_layout layout;
	struct dmashare_token token;
	struct moved moved = { NULL, dmashare_import_id(import), 0 };
	struct told told = { 0 };
	int fd;

	OK(dmashare_allocate(connection, 64, 32, XR24, &own));
	OK(dmashare_neutral_layout(own, &layout));
	IS(layout.width, 64);
	IS(layout.height, 32);
	IS(layout.plane_count, 1);
	CHECK(dmashare_neutral_plane_size(own, 0) >= 64 * 32 * 4);
	CHECK(dmashare_neutral_id(own) != 0);
	CHECK(dmashare_neutral_needs_cpu_sync(own) >= 0);
	IS(dmashare_neutral_with_plane_fd(own, 0, any_fd, NULL), FD_CLOEXEC);
	fd = dmashare_neutral_dup_plane_fd(own, 0);
	CHECK(fd >= 0);
	close(fd);
	IS(first_byte(own), 0);
	OK(dmashare_neutral_map_range(own, 0, 0, 16, DMASHARE_READ_WRITE, &mapping));
	OK(dmashare_mapping_begin(mapping, DMASHARE_ACCESS_READ_WRITE));
	*(uint8_t *)dmashare_mapping_pointer(mapping) = 9;
	OK(dmashare_mapping_end(mapping, DMASHARE_ACCESS_READ_WRITE));
	IS(dmashare_neutral_release(own), -EBUSY);
	OK(dmashare_mapping_destroy(mapping));
	IS(dmashare_allocate(connection, 0, 32, XR24, &own), -EINVAL);

	OK(dmashare_preserve(import, &copy));
	IS(first_byte(copy), 0x33);
	OK(dmashare_neutral_grant(copy, NULL, &token));
	OK(dmashare_import_buffer(connection, &token, DMASHARE_IMPORT_CPU, &again));
	IS(dmashare_import_device(again, &device), -ENOENT);
	IS(dmashare_import_is_lost(again), 0);
	OK(dmashare_import_preserve_on_request(import, 1));
	listener.removal_requested = move_over;
	OK(dmashare_connection_set_listener(connection, &listener, &moved));
	machine_uevent("remove", synthetic, sizeof(synthetic));
	while (moved.calls == 0)
		CHECK(dmashare_dispatch(connection, LONG) >= 0);

	OK(dmashare_connection_set_listener(connection, &counting, &told));
	machine_unplug();
	dispatch_until(connection, &told.gone, 1);
	IS(dmashare_preserve(import, &own), -ENODEV);
	IS(first_byte(copy), 0x33);
	IS(first_byte(moved.copy), 0x33);
	IS(dmashare_import_is_lost(again), 0);
	OK(dmashare_import_release(again));
	OK(dmashare_neutral_release(copy));
	OK(dmashare_neutral_destroy(moved.copy));
	OK(dmashare_import_destroy(import));
	OK(dmashare_export_destroy(buffer));
	OK(dmashare_connection_destroy(connection));
}

static sigjmp_buf fault;

static void own_handler(int signal)
{
	(void)signal;
	siglongjmp(fault, 1);
}

/* The memory that stands for a buffer here cannot be made to fault; what is handed on can be seen. */
static void other_faults_are_handed_on(void)
{
	struct dmashare_connection *connection = connect_to_machine();
	struct dmashare_export *buffer = export_small(connection, 0x21);
	struct sigaction action = { .sa_handler = own_handler };
	struct dmashare_import *import;
	struct dmashare_mapping *mapping;
	int file = memfd_create("faults", MFD_CLOEXEC);
	volatile char *memory;

	OK(sigaction(SIGBUS, &action, NULL));
	OK(dmashare_install_sigbus_guard());
	OK(dmashare_install_sigbus_guard());
	import = import_small(connection, buffer);
	OK(dmashare_import_map(import, 0, DMASHARE_READ_ONLY, &mapping));
	memory = mmap(NULL, 4096, PROT_READ, MAP_SHARED, file, 0);
	CHECK(memory != MAP_FAILED);
	if (sigsetjmp(fault, 1) == 0) {
		(void)memory[0];
		CHECK(!"the file has no byte");
	}
	munmap((void *)memory, 4096);
	close(file);
	OK(dmashare_mapping_begin(mapping, DMASHARE_ACCESS_READ));
	CHECK(*(uint8_t *)dmashare_mapping_pointer(mapping) == 0x21);
	OK(dmashare_mapping_end(mapping, DMASHARE_ACCESS_READ));
	OK(dmashare_mapping_destroy(mapping));
	OK(dmashare_import_destroy(import));
	OK(dmashare_export_destroy(buffer));
	OK(dmashare_connection_destroy(connection));
}

static void a_buffer_comes_with_a_token(void)
{
	struct dmashare_connection *connection = connect_to_machine();
	struct dmashare_grant grant = {
		.version = DMASHARE_GRANT_VERSION,
		.to = DMASHARE_GRANT_ANYONE,
		.uses = 1,
		.ttl_ns = 60000000000,
	};
	struct dmashare_export *buffer = NULL;
	struct dmashare_import *import = NULL;
	struct dmashare_token token;
	int node = machine_node("egpu"), plane = sim_buffer(4096, 0);

	OK(dmashare_export_buffer_granted(connection, node, &small, &plane, &grant, &buffer, &token));
	OK(dmashare_import_buffer(connection, &token, DMASHARE_IMPORT_CPU, &import));
	CHECK(dmashare_import_buffer_id(import) == dmashare_export_id(buffer));
	OK(dmashare_import_destroy(import));
	OK(dmashare_export_destroy(buffer));
	/* Refused for the token: then there is no buffer either. */
	grant.uses = 0;
	buffer = NULL;
	CHECK(dmashare_export_buffer_granted(connection, node, &small, &plane, &grant, &buffer,
	                                     &token) < 0);
	CHECK(!buffer);
	close(node);
	close(plane);
	OK(dmashare_connection_destroy(connection));
}

static void what_is_no_buffer_is_refused(void)
{
	struct dmashare_connection *connection = connect_to_machine();
	struct dmashare_layout layout = small;
	struct dmashare_export *buffer = NULL;
	int node = machine_node("egpu"), plane = sim_buffer(4096, 0), other = sim_fence();

	layout.plane_count = 0;
	IS(dmashare_export_buffer(connection, node, &layout, &plane, &buffer), -EINVAL);
	layout.plane_count = 5;
	IS(dmashare_export_buffer(connection, node, &layout, &plane, &buffer), -EINVAL);
	layout = small;
	layout.planes[0].stride = 1 << 20;
	IS(dmashare_export_buffer(connection, node, &layout, &plane, &buffer), -EINVAL);
	CHECK(dmashare_export_buffer(connection, node, &small, &other, &buffer) < 0);
	CHECK(dmashare_export_buffer(connection, other, &small, &plane, &buffer) < 0);
	CHECK(!buffer);
	close(node);
	close(plane);
	close(other);
	OK(dmashare_connection_destroy(connection));
}

int main(void)
{
	static const struct test tests[] = {
		TEST(a_buffer_is_shared),
		TEST(planes_are_lent_and_duplicated),
		TEST(the_card_is_pulled),
		TEST(a_loss_that_is_not_taken_is_acknowledged),
		TEST(neutral_buffers_stay),
		TEST(other_faults_are_handed_on),
		TEST(a_buffer_comes_with_a_token),
		TEST(what_is_no_buffer_is_refused),
	};

	return run_tests("buffers", tests, sizeof(tests) / sizeof(*tests));
}
