/* Callers that do it wrong: every function, with everything that it should not be given. */
#define _GNU_SOURCE
#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

/* One of each type of handle, and what goes beside it. */
struct all {
	struct dmashare_connection *connection;
	struct dmashare_device_list *list;
	struct dmashare_device *device;
	struct dmashare_export *buffer;
	struct dmashare_import *import;
	struct dmashare_neutral *neutral;
	struct dmashare_mapping *mapping;
	struct dmashare_shared_fence *shared;
	struct dmashare_fence *fence;
	struct dmashare_timeline *timeline;
	struct dmashare_inhibitor *inhibitor;
	int node, source;
};

static struct all make_all(void)
{
	struct all all = { .connection = connect_to_machine() };
	struct dmashare_token token;

	all.node = machine_node("egpu");
	all.source = sim_fence();
	OK(dmashare_list_devices(all.connection, &all.list));
	OK(dmashare_device_list_get(all.list, 0, &all.device));
	all.buffer = export_small(all.connection, 3);
	all.import = import_small(all.connection, all.buffer);
	OK(dmashare_allocate(all.connection, 16, 16, XR24, &all.neutral));
	OK(dmashare_import_map(all.import, 0, DMASHARE_READ_WRITE, &all.mapping));
	OK(dmashare_share_fence(all.connection, all.node, all.source, NULL, &all.shared));
	OK(dmashare_shared_fence_grant(all.shared, NULL, &token));
	OK(dmashare_import_fence(all.connection, &token, &all.fence));
	OK(dmashare_create_timeline(all.connection, all.node, DMASHARE_POLICY_AUTO, DMASHARE_ACQUIRE,
	                            &all.timeline));
	OK(dmashare_inhibit(all.connection, 0, DMASHARE_INHIBIT_DELAY, "a test", &all.inhibitor));
	return all;
}

/* Destroys the one with this number; 11 of them. */
static int destroy(struct all *all, int which)
{
	switch (which) {
	case 0: return dmashare_connection_destroy(all->connection);
	case 1: return dmashare_device_list_destroy(all->list);
	case 2: return dmashare_device_destroy(all->device);
	case 3: return dmashare_export_destroy(all->buffer);
	case 4: return dmashare_import_destroy(all->import);
	case 5: return dmashare_neutral_destroy(all->neutral);
	case 6: return dmashare_mapping_destroy(all->mapping);
	case 7: return dmashare_shared_fence_destroy(all->shared);
	case 8: return dmashare_fence_destroy(all->fence);
	case 9: return dmashare_timeline_destroy(all->timeline);
	default: return dmashare_inhibitor_destroy(all->inhibitor);
	}
}
#define TYPES 11

static void close_fds(struct all *all)
{
	close(all->node);
	close(all->source);
}

static int never(int fd, void *data)
{
	(void)fd;
	(void)data;
	abort();
}

/* Every function that takes a handle, with this one for each. */
static void every_function_says(int wanted, struct all *all, bool destroy_too)
{
	struct dmashare_connection *connection = NULL;
	struct dmashare_device_list *list = NULL;
	struct dmashare_device *device = NULL;
	struct dmashare_export *buffer = NULL;
	struct dmashare_import *import = NULL;
	struct dmashare_neutral *neutral = NULL;
	struct dmashare_mapping *mapping = NULL;
	struct dmashare_shared_fence *shared = NULL;
	struct dmashare_fence *fence = NULL;
	struct dmashare_timeline *timeline = NULL;
	struct dmashare_inhibitor *inhibitor = NULL;
	struct dmashare_layout layout = small;
	struct dmashare_status status;
	struct dmashare_token token = { { 0 } };
	uint8_t instance[16];
	char byte = 0;
	int plane = sim_buffer(4096, 0), fd = -7, node = machine_node("igpu"), source = sim_fence();

	IS(dmashare_connection_fd(all->connection), wanted);
	IS(dmashare_connection_instance(all->connection, instance), wanted);
	IS(dmashare_connection_guard(all->connection), wanted);
	IS(dmashare_connection_is_closed(all->connection), wanted);
	IS(dmashare_connection_set_listener(all->connection, &counting, NULL), wanted);
	IS(dmashare_dispatch(all->connection, DMASHARE_FOREVER), wanted);
	IS(dmashare_declare(all->connection, DMASHARE_LOSS_WAIT, 0), wanted);
	IS(dmashare_inhibit(all->connection, 0, DMASHARE_INHIBIT_DELAY, "?", &inhibitor), wanted);
	IS(dmashare_list_devices(all->connection, &list), wanted);
	IS(dmashare_export_buffer(all->connection, node, &layout, &plane, &buffer), wanted);
	IS(dmashare_export_buffer_granted(all->connection, node, &layout, &plane, NULL, &buffer, &token),
	   wanted);
	IS(dmashare_import_buffer(all->connection, &token, -1, &import), wanted);
	IS(dmashare_allocate(all->connection, 1, 1, XR24, &neutral), wanted);
	IS(dmashare_share_fence(all->connection, node, source, NULL, &shared), wanted);
	IS(dmashare_share_fence_granted(all->connection, node, source, NULL, NULL, &shared, &token),
	   wanted);
	IS(dmashare_import_fence(all->connection, &token, &fence), wanted);
	IS(dmashare_create_timeline(all->connection, node, DMASHARE_POLICY_AUTO, DMASHARE_ACQUIRE,
	                            &timeline), wanted);
	IS(dmashare_import_timeline(all->connection, &token, &timeline), wanted);

	IS(dmashare_device_list_count(all->list), wanted);
	IS(dmashare_device_list_get(all->list, 0, &device), wanted);
	IS(dmashare_device_dup(all->device, &device), wanted);
	IS(dmashare_device_id(all->device), 0);
	IS(dmashare_device_state(all->device), wanted);
	IS(dmashare_device_is_lost(all->device), wanted);
	IS(dmashare_device_wait_lost(all->device, DMASHARE_FOREVER), wanted);
	CHECK(!dmashare_device_driver(all->device));
	CHECK(!dmashare_device_pci(all->device));
	IS(dmashare_device_is_removable(all->device), wanted);
	IS(dmashare_device_node_count(all->device), wanted);
	CHECK(!dmashare_device_node(all->device, 0));

	IS(dmashare_export_id(all->buffer), 0);
	IS(dmashare_export_is_lost(all->buffer), wanted);
	IS(dmashare_export_device(all->buffer, &device), wanted);
	IS(dmashare_export_grant(all->buffer, NULL, &token), wanted);
	IS(dmashare_export_release(all->buffer), wanted);
	IS(dmashare_export_attach(all->buffer, all->fence, DMASHARE_ACCESS_READ), wanted);
	IS(dmashare_export_attach_shared(all->buffer, all->shared, DMASHARE_ACCESS_READ), wanted);

	IS(dmashare_import_id(all->import), 0);
	IS(dmashare_import_buffer_id(all->import), 0);
	IS(dmashare_import_is_lost(all->import), wanted);
	IS(dmashare_import_device(all->import, &device), wanted);
	IS(dmashare_import_layout(all->import, &layout), wanted);
	IS(dmashare_import_plane_size(all->import, 0), 0);
	IS(dmashare_import_needs_cpu_sync(all->import), wanted);
	IS(dmashare_import_with_plane_fd(all->import, 0, never, NULL), wanted);
	IS(dmashare_import_dup_plane_fd(all->import, 0), wanted);
	IS(dmashare_import_map(all->import, 0, DMASHARE_READ_ONLY, &mapping), wanted);
	IS(dmashare_import_map_range(all->import, 0, 0, 1, DMASHARE_READ_ONLY, &mapping), wanted);
	IS(dmashare_import_preserve_on_request(all->import, 1), wanted);
	IS(dmashare_preserve(all->import, &neutral), wanted);
	IS(dmashare_import_attach(all->import, all->fence, DMASHARE_ACCESS_READ), wanted);
	IS(dmashare_import_attach_shared(all->import, all->shared, DMASHARE_ACCESS_READ), wanted);
	IS(dmashare_import_release(all->import), wanted);

	IS(dmashare_neutral_id(all->neutral), 0);
	IS(dmashare_neutral_layout(all->neutral, &layout), wanted);
	IS(dmashare_neutral_plane_size(all->neutral, 0), 0);
	IS(dmashare_neutral_needs_cpu_sync(all->neutral), wanted);
	IS(dmashare_neutral_with_plane_fd(all->neutral, 0, never, NULL), wanted);
	IS(dmashare_neutral_dup_plane_fd(all->neutral, 0), wanted);
	IS(dmashare_neutral_map(all->neutral, 0, DMASHARE_READ_ONLY, &mapping), wanted);
	IS(dmashare_neutral_map_range(all->neutral, 0, 0, 1, DMASHARE_READ_ONLY, &mapping), wanted);
	IS(dmashare_neutral_grant(all->neutral, NULL, &token), wanted);
	IS(dmashare_neutral_attach(all->neutral, all->fence, DMASHARE_ACCESS_READ), wanted);
	IS(dmashare_neutral_attach_shared(all->neutral, all->shared, DMASHARE_ACCESS_READ), wanted);
	IS(dmashare_neutral_release(all->neutral), wanted);

	CHECK(!dmashare_mapping_pointer(all->mapping));
	IS(dmashare_mapping_size(all->mapping), 0);
	IS(dmashare_mapping_begin(all->mapping, DMASHARE_ACCESS_READ), wanted);
	IS(dmashare_mapping_end(all->mapping, DMASHARE_ACCESS_READ), wanted);
	IS(dmashare_mapping_end_checked(all->mapping, DMASHARE_ACCESS_READ, node), wanted);
	IS(dmashare_mapping_copy_out(all->mapping, 0, &byte, 1), wanted);
	IS(dmashare_mapping_copy_in(all->mapping, 0, &byte, 1), wanted);
	IS(dmashare_mapping_is_revoked(all->mapping), wanted);
	IS(dmashare_mapping_protection(all->mapping), wanted);

	IS(dmashare_shared_fence_id(all->shared), 0);
	IS(dmashare_shared_fence_is_lost(all->shared), wanted);
	IS(dmashare_shared_fence_device(all->shared, &device), wanted);
	IS(dmashare_shared_fence_guard(all->shared), wanted);
	IS(dmashare_shared_fence_query(all->shared, &status), wanted);
	IS(dmashare_shared_fence_grant(all->shared, NULL, &token), wanted);
	IS(dmashare_shared_fence_release(all->shared), wanted);
	IS(dmashare_fence_id(all->fence), 0);
	IS(dmashare_fence_is_lost(all->fence), wanted);
	IS(dmashare_fence_device(all->fence, &device), wanted);
	IS(dmashare_fence_guard(all->fence), wanted);
	IS(dmashare_fence_fd(all->fence, &fd), wanted);
	IS(dmashare_fence_dup_fd(all->fence, &fd), wanted);
	IS(dmashare_fence_take_fd(all->fence, &fd), wanted);
	IS(dmashare_fence_status(all->fence, &status), wanted);
	IS(dmashare_fence_wait(all->fence, DMASHARE_FOREVER, &status), wanted);
	IS(dmashare_fence_release(all->fence), wanted);

	IS(dmashare_timeline_id(all->timeline), 0);
	IS(dmashare_timeline_is_lost(all->timeline), wanted);
	IS(dmashare_timeline_device(all->timeline, &device), wanted);
	IS(dmashare_timeline_direction(all->timeline), wanted);
	IS(dmashare_timeline_guard(all->timeline), wanted);
	IS(dmashare_timeline_promised(all->timeline), 0);
	IS(dmashare_timeline_promise(all->timeline, 1), wanted);
	IS(dmashare_timeline_submit(all->timeline, 1, node, source, 0), wanted);
	IS(dmashare_timeline_submit_done(all->timeline, 1), wanted);
	IS(dmashare_timeline_query(all->timeline, 1, &status), wanted);
	IS(dmashare_timeline_wait(all->timeline, 1, DMASHARE_FOREVER), wanted);
	IS(dmashare_timeline_syncobj_fd(all->timeline), wanted);
	IS(dmashare_timeline_lost_fd(all->timeline), wanted);
	IS(dmashare_timeline_new_eventfd(all->timeline, node, 1), wanted);
	IS(dmashare_timeline_grant(all->timeline, NULL, &token), wanted);
	IS(dmashare_timeline_release(all->timeline), wanted);

	IS(dmashare_inhibitor_id(all->inhibitor), 0);
	IS(dmashare_inhibitor_release(all->inhibitor), wanted);
	if (destroy_too) {
		for (int which = 0; which < TYPES; which++)
			IS(destroy(all, which), wanted);
	}
	/* Nothing was given out. */
	CHECK(!connection && !list && !device && !buffer && !import && !neutral && !mapping && !shared &&
	      !fence && !timeline && !inhibitor && fd == -7);
	close(plane);
	close(node);
	close(source);
}

static void no_handle(void)
{
	struct all none = { 0 };
	struct dmashare_lost_info info = { .version = DMASHARE_LOST_INFO_VERSION };
	uint64_t id;
	int error;

	every_function_says(-EINVAL, &none, true);
	IS(dmashare_lost_info(NULL, &info), -EINVAL);
	IS(dmashare_lost_import(NULL, 0), 0);
	IS(dmashare_lost_failed(NULL, 0, &id, &error), -EINVAL);
	IS(dmashare_lost_take(NULL), -EINVAL);
	IS(dmashare_lost_acknowledge(NULL), -EINVAL);
	IS(dmashare_lost_destroy(NULL), -EINVAL);
}

static void handles_that_were_destroyed(void)
{
	struct all all = make_all();

	for (int which = 0; which < TYPES; which++)
		OK(destroy(&all, which));
	every_function_says(-EINVAL, &all, true);
	/* Nor when their places are used again. */
	struct all next = make_all();
	every_function_says(-EINVAL, &all, true);
	for (int which = 0; which < TYPES; which++)
		OK(destroy(&next, which));
	close_fds(&all);
	close_fds(&next);
}

/* A cast has made each handle one of another type; or it never was one. */
static void handles_that_are_none(void)
{
	struct all all = make_all(), wrong = all;
	int on_the_stack[4];

	wrong.connection = (void *)all.device;
	wrong.list = (void *)all.device;
	wrong.device = (void *)all.connection;
	wrong.buffer = (void *)all.import;
	wrong.import = (void *)all.buffer;
	wrong.neutral = (void *)all.import;
	wrong.mapping = (void *)all.import;
	wrong.shared = (void *)all.fence;
	wrong.fence = (void *)all.shared;
	wrong.timeline = (void *)all.fence;
	wrong.inhibitor = (void *)all.timeline;
	every_function_says(-EINVAL, &wrong, true);
	wrong.connection = (void *)on_the_stack;
	wrong.list = (void *)on_the_stack;
	wrong.device = (void *)on_the_stack;
	wrong.buffer = (void *)on_the_stack;
	wrong.import = (void *)on_the_stack;
	wrong.neutral = (void *)on_the_stack;
	wrong.mapping = (void *)on_the_stack;
	wrong.shared = (void *)on_the_stack;
	wrong.fence = (void *)on_the_stack;
	wrong.timeline = (void *)on_the_stack;
	wrong.inhibitor = (void *)on_the_stack;
	every_function_says(-EINVAL, &wrong, true);
	for (int which = 0; which < TYPES; which++)
		OK(destroy(&all, which));
	close_fds(&all);
}

/* Every pointer that is not a handle. */
static void no_place_for_results(void)
{
	struct all all = make_all();
	struct dmashare_token token;
	struct dmashare_export *buffer = NULL;
	struct dmashare_inhibitor *inhibitor = NULL;
	struct dmashare_import *import = NULL;
	struct dmashare_shared_fence *shared = NULL;
	struct dmashare_fence *fence = NULL;
	struct dmashare_timeline *timeline = NULL;
	struct dmashare_connection *connection = NULL;
	char hex[33], byte = 0;
	int plane = sim_buffer(4096, 0);

	OK(dmashare_export_grant(all.buffer, NULL, &token));
	IS(dmashare_connect(NULL, NULL), -EINVAL);
	IS(dmashare_connect_to(machine_socket(), NULL, NULL), -EINVAL);
	IS(dmashare_connect_to(NULL, NULL, &connection), -EINVAL);
	/* It is not taken then. */
	IS(dmashare_connect_take_fd(all.node, NULL, NULL), -EINVAL);
	CHECK(fcntl(all.node, F_GETFD) >= 0);
	IS(dmashare_last_error_info(NULL), -EINVAL);
	IS(dmashare_connection_instance(all.connection, NULL), -EINVAL);
	IS(dmashare_inhibit(all.connection, 0, DMASHARE_INHIBIT_DELAY, NULL, &inhibitor), -EINVAL);
	IS(dmashare_inhibit(all.connection, 0, DMASHARE_INHIBIT_DELAY, "?", NULL), -EINVAL);
	IS(dmashare_list_devices(all.connection, NULL), -EINVAL);
	IS(dmashare_device_list_get(all.list, 0, NULL), -EINVAL);
	IS(dmashare_device_dup(all.device, NULL), -EINVAL);
	IS(dmashare_export_buffer(all.connection, all.node, NULL, &plane, &buffer), -EINVAL);
	IS(dmashare_export_buffer(all.connection, all.node, &small, NULL, &buffer), -EINVAL);
	IS(dmashare_export_buffer(all.connection, all.node, &small, &plane, NULL), -EINVAL);
	IS(dmashare_export_buffer_granted(all.connection, all.node, NULL, &plane, NULL, &buffer, &token),
	   -EINVAL);
	IS(dmashare_export_buffer_granted(all.connection, all.node, &small, NULL, NULL, &buffer, &token),
	   -EINVAL);
	IS(dmashare_export_buffer_granted(all.connection, all.node, &small, &plane, NULL, NULL, &token),
	   -EINVAL);
	IS(dmashare_export_buffer_granted(all.connection, all.node, &small, &plane, NULL, &buffer, NULL),
	   -EINVAL);
	IS(dmashare_export_device(all.buffer, NULL), -EINVAL);
	IS(dmashare_export_grant(all.buffer, NULL, NULL), -EINVAL);
	IS(dmashare_shared_fence_grant(all.shared, NULL, NULL), -EINVAL);
	IS(dmashare_timeline_grant(all.timeline, NULL, NULL), -EINVAL);
	IS(dmashare_neutral_grant(all.neutral, NULL, NULL), -EINVAL);
	IS(dmashare_token_to_hex(NULL, hex), -EINVAL);
	IS(dmashare_token_to_hex(&token, NULL), -EINVAL);
	IS(dmashare_token_from_hex(NULL, &token), -EINVAL);
	IS(dmashare_token_from_hex("00", NULL), -EINVAL);
	IS(dmashare_import_buffer(all.connection, NULL, -1, &import), -EINVAL);
	IS(dmashare_import_buffer(all.connection, &token, -1, NULL), -EINVAL);
	IS(dmashare_import_device(all.import, NULL), -EINVAL);
	IS(dmashare_import_layout(all.import, NULL), -EINVAL);
	IS(dmashare_import_with_plane_fd(all.import, 0, NULL, NULL), -EINVAL);
	IS(dmashare_import_map(all.import, 0, DMASHARE_READ_ONLY, NULL), -EINVAL);
	IS(dmashare_import_map_range(all.import, 0, 0, 1, DMASHARE_READ_ONLY, NULL), -EINVAL);
	IS(dmashare_allocate(all.connection, 1, 1, XR24, NULL), -EINVAL);
	IS(dmashare_preserve(all.import, NULL), -EINVAL);
	IS(dmashare_neutral_layout(all.neutral, NULL), -EINVAL);
	IS(dmashare_neutral_with_plane_fd(all.neutral, 0, NULL, NULL), -EINVAL);
	IS(dmashare_neutral_map(all.neutral, 0, DMASHARE_READ_ONLY, NULL), -EINVAL);
	IS(dmashare_neutral_map_range(all.neutral, 0, 0, 1, DMASHARE_READ_ONLY, NULL), -EINVAL);
	IS(dmashare_mapping_copy_out(all.mapping, 0, NULL, 1), -EINVAL);
	IS(dmashare_mapping_copy_in(all.mapping, 0, NULL, 1), -EINVAL);
	IS(dmashare_share_fence(all.connection, all.node, all.source, NULL, NULL), -EINVAL);
	IS(dmashare_share_fence_granted(all.connection, all.node, all.source, NULL, NULL, NULL, &token),
	   -EINVAL);
	IS(dmashare_share_fence_granted(all.connection, all.node, all.source, NULL, NULL, &shared, NULL),
	   -EINVAL);
	IS(dmashare_shared_fence_device(all.shared, NULL), -EINVAL);
	IS(dmashare_shared_fence_query(all.shared, NULL), -EINVAL);
	IS(dmashare_import_fence(all.connection, NULL, &fence), -EINVAL);
	IS(dmashare_import_fence(all.connection, &token, NULL), -EINVAL);
	IS(dmashare_fence_device(all.fence, NULL), -EINVAL);
	IS(dmashare_fence_fd(all.fence, NULL), -EINVAL);
	IS(dmashare_fence_dup_fd(all.fence, NULL), -EINVAL);
	IS(dmashare_fence_take_fd(all.fence, NULL), -EINVAL);
	IS(dmashare_fence_status(all.fence, NULL), -EINVAL);
	IS(dmashare_fence_wait(all.fence, 0, NULL), -EINVAL);
	IS(dmashare_create_timeline(all.connection, all.node, DMASHARE_POLICY_AUTO, DMASHARE_ACQUIRE,
	                            NULL), -EINVAL);
	IS(dmashare_import_timeline(all.connection, NULL, &timeline), -EINVAL);
	IS(dmashare_import_timeline(all.connection, &token, NULL), -EINVAL);
	IS(dmashare_timeline_device(all.timeline, NULL), -EINVAL);
	IS(dmashare_timeline_query(all.timeline, 1, NULL), -EINVAL);
	(void)byte;
	for (int which = 0; which < TYPES; which++)
		OK(destroy(&all, which));
	close_fds(&all);
	close(plane);
}

static void descriptors_that_are_closed(void)
{
	struct all all = make_all();
	struct dmashare_connection *connection = NULL;
	struct dmashare_export *buffer = NULL;
	struct dmashare_import *import = NULL;
	struct dmashare_shared_fence *shared = NULL;
	struct dmashare_timeline *timeline = NULL;
	struct dmashare_token token;
	int plane = sim_buffer(4096, 0);
	const int closed[] = { -1, -2, 4000, 2147483647, -2147483647 - 1 };

	OK(dmashare_export_grant(all.buffer, NULL, &token));
	for (size_t i = 0; i < sizeof(closed) / sizeof(*closed); i++) {
		int fd = closed[i];

		IS(dmashare_connect_take_fd(fd, NULL, &connection), -EBADF);
		IS(dmashare_export_buffer(all.connection, fd, &small, &plane, &buffer), -EBADF);
		IS(dmashare_export_buffer(all.connection, all.node, &small, &fd, &buffer), -EBADF);
		if (fd != DMASHARE_IMPORT_CPU)
			IS(dmashare_import_buffer(all.connection, &token, fd, &import), -EBADF);
		IS(dmashare_share_fence(all.connection, fd, all.source, NULL, &shared), -EBADF);
		IS(dmashare_share_fence(all.connection, all.node, fd, NULL, &shared), -EBADF);
		IS(dmashare_export_buffer_granted(all.connection, fd, &small, &plane, NULL, &buffer,
		                                  &token), -EBADF);
		IS(dmashare_share_fence_granted(all.connection, all.node, fd, NULL, NULL, &shared, &token),
		   -EBADF);
		IS(dmashare_create_timeline(all.connection, fd, DMASHARE_POLICY_AUTO, DMASHARE_ACQUIRE,
		                            &timeline), -EBADF);
		IS(dmashare_timeline_submit(all.timeline, 1, fd, all.source, 0), -EBADF);
		IS(dmashare_timeline_submit(all.timeline, 1, all.node, fd, 0), -EBADF);
		IS(dmashare_timeline_new_eventfd(all.timeline, fd, 1), -EBADF);
		IS(dmashare_mapping_end_checked(all.mapping, DMASHARE_ACCESS_READ, fd), -EBADF);
	}
	/* None of it has used up the token. */
	OK(dmashare_import_buffer(all.connection, &token, all.node, &import));
	OK(dmashare_import_destroy(import));
	for (int which = 0; which < TYPES; which++)
		OK(destroy(&all, which));
	close_fds(&all);
	close(plane);
}

/* In any order, so also the connection first: the rest goes on, and gives back what it had. */
static void any_order_of_destruction(void)
{
	for (int first = 0; first < TYPES; first++) {
		struct all all = make_all();

		for (int i = 0; i < TYPES; i++)
			OK(destroy(&all, (first + i * 4) % TYPES));
		close_fds(&all);
		IS(dmashare_handle_count(), 0);
	}
	struct all all = make_all();
	uint8_t byte = 0;

	OK(dmashare_connection_destroy(all.connection));
	OK(dmashare_mapping_begin(all.mapping, DMASHARE_ACCESS_READ));
	OK(dmashare_mapping_copy_out(all.mapping, 0, &byte, 1));
	OK(dmashare_mapping_end(all.mapping, DMASHARE_ACCESS_READ));
	IS(byte, 3);
	OK(dmashare_export_release(all.buffer));
	for (int which = 1; which < TYPES; which++) {
		if (which != 3)
			OK(destroy(&all, which));
	}
	close_fds(&all);
}

struct suicide {
	struct all *all;
	int calls, order;
};

static void destroy_everything(void *data, struct dmashare_connection *connection,
                               struct dmashare_lost *lost)
{
	struct suicide *suicide = data;

	suicide->calls++;
	IS((intptr_t)connection, (intptr_t)suicide->all->connection);
	if (suicide->order == 1)
		OK(dmashare_lost_destroy(lost));
	if (suicide->order == 2)
		OK(dmashare_lost_acknowledge(lost));
	for (int which = 0; which < TYPES; which++)
		OK(destroy(suicide->all, which));
	if (suicide->order > 0)
		IS(dmashare_lost_destroy(lost), -EINVAL);
}

static void destroy_the_device(void *data, struct dmashare_connection *connection,
                               struct dmashare_device *device)
{
	int *calls = data;

	(*calls)++;
	OK(dmashare_device_destroy(device));
	OK(dmashare_connection_destroy(connection));
}

static void never_called(void *data, struct dmashare_connection *connection, uint64_t device)
{
	(void)data;
	(void)connection;
	(void)device;
	abort();
}

static void objects_are_destroyed_in_a_callback(void)
{
	for (int order = 0; order < 3; order++) {
		struct all all = make_all();
		struct suicide suicide = { &all, 0, order };
		struct dmashare_listener listener = {
			.version = 2, .device_lost = destroy_everything, .device_gone = never_called,
		};

		OK(dmashare_connection_set_listener(all.connection, &listener, &suicide));
		machine_unplug();
		while (suicide.calls == 0)
			CHECK(dmashare_dispatch(all.connection, LONG) >= 0);
		IS(suicide.calls, 1);
		IS(dmashare_dispatch(all.connection, 0), -EINVAL);
		IS(dmashare_handle_count(), 0);
		close_fds(&all);

		struct dmashare_connection *connection = connect_to_machine();
		struct dmashare_listener adding = { .version = 1, .device_added = destroy_the_device };
		int calls = 0;

		OK(dmashare_connection_set_listener(connection, &adding, &calls));
		machine_plug();
		while (calls == 0)
			CHECK(dmashare_dispatch(connection, LONG) >= 0);
	}
}

struct hammered {
	struct all all;
	int destroyed;
	pthread_barrier_t barrier;
};

static void *hammer(void *data)
{
	struct hammered *hammered = data;
	struct dmashare_status status;
	uint8_t byte;

	pthread_barrier_wait(&hammered->barrier);
	/* The connection is destroyed by all at once, while they use everything else, which goes too. */
	for (int i = 0; i < 50; i++) {
		int result = dmashare_fence_status(hammered->all.fence, &status);

		CHECK(result == 0 || result == -EINVAL);
		result = dmashare_mapping_copy_out(hammered->all.mapping, 0, &byte, 1);
		CHECK(result == 0 || result == -EINVAL);
		result = dmashare_dispatch(hammered->all.connection, 0);
		CHECK(result == 0 || result == -EINVAL);
		if (i == 25) {
			for (int which = 0; which < TYPES; which++) {
				if (destroy(&hammered->all, which) == 0)
					__atomic_add_fetch(&hammered->destroyed, 1, __ATOMIC_RELAXED);
			}
		}
	}
	return NULL;
}

static void threads_destroy_what_others_use(void)
{
	for (int round = 0; round < 3; round++) {
		struct hammered hammered = { .all = make_all() };
		pthread_t threads[4];

		OK(pthread_barrier_init(&hammered.barrier, NULL, 4));
		for (int i = 0; i < 4; i++)
			OK(pthread_create(&threads[i], NULL, hammer, &hammered));
		for (int i = 0; i < 4; i++)
			OK(pthread_join(threads[i], NULL));
		IS(hammered.destroyed, TYPES);
		IS(dmashare_handle_count(), 0);
		pthread_barrier_destroy(&hammered.barrier);
		close_fds(&hammered.all);
	}
}

/* Runs in a child, and is seen by its exit status. */
static void in_a_child(struct all *all)
{
	struct dmashare_connection *own = NULL;
	struct dmashare_export *buffer;

	every_function_says(-ECHILD, all, false);
	CHECK(strstr(dmashare_last_error(), "fork"));
	/* It may have a connection of its own. */
	own = connect_to_machine();
	buffer = export_small(own, 1);
	OK(dmashare_export_release(buffer));
	for (int which = 0; which < TYPES; which++) {
		OK(destroy(all, which));
		IS(destroy(all, which), -EINVAL);
	}
	OK(dmashare_connection_destroy(own));
	IS(dmashare_handle_count(), 0);
}

static void a_fork_in_the_middle(void)
{
	struct all all = make_all();
	struct dmashare_status status;
	int code;
	uint8_t byte;
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0) {
		in_a_child(&all);
		close_fds(&all);
		/* The leak checker of the child has to be content too. */
		exit(0);
	}
	IS(waitpid(child, &code, 0), child);
	IS(code, 0);
	/* The parent has lost nothing. */
	OK(dmashare_mapping_begin(all.mapping, DMASHARE_ACCESS_READ));
	OK(dmashare_mapping_copy_out(all.mapping, 0, &byte, 1));
	OK(dmashare_mapping_end(all.mapping, DMASHARE_ACCESS_READ));
	IS(byte, 3);
	OK(dmashare_fence_status(all.fence, &status));
	IS(status.state, DMASHARE_PENDING);
	IS(dmashare_dispatch(all.connection, 0), 0);
	OK(dmashare_mapping_destroy(all.mapping));
	OK(dmashare_import_release(all.import));
	OK(dmashare_export_release(all.buffer));
	OK(dmashare_neutral_release(all.neutral));
	OK(dmashare_fence_release(all.fence));
	OK(dmashare_shared_fence_release(all.shared));
	OK(dmashare_timeline_release(all.timeline));
	OK(dmashare_inhibitor_release(all.inhibitor));
	OK(dmashare_device_destroy(all.device));
	OK(dmashare_device_list_destroy(all.list));
	OK(dmashare_connection_destroy(all.connection));
	close_fds(&all);
}

int main(void)
{
	static const struct test tests[] = {
		TEST(no_handle),
		TEST(handles_that_were_destroyed),
		TEST(handles_that_are_none),
		TEST(no_place_for_results),
		TEST(descriptors_that_are_closed),
		TEST(any_order_of_destruction),
		TEST(objects_are_destroyed_in_a_callback),
		TEST(threads_destroy_what_others_use),
		TEST(a_fork_in_the_middle),
	};

	return run_tests("callers", tests, sizeof(tests) / sizeof(*tests));
}
