/* Fences and timelines. */
#define _GNU_SOURCE
#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

static struct dmashare_shared_fence *share(struct dmashare_connection *connection, int fence,
                                           const struct dmashare_fence_options *options)
{
	struct dmashare_shared_fence *shared = NULL;
	int node = machine_node("egpu");

	OK(dmashare_share_fence(connection, node, fence, options, &shared));
	close(node);
	return shared;
}

static struct dmashare_fence *import(struct dmashare_connection *connection,
                                     struct dmashare_shared_fence *shared)
{
	struct dmashare_token token;
	struct dmashare_fence *fence = NULL;

	OK(dmashare_shared_fence_grant(shared, NULL, &token));
	OK(dmashare_import_fence(connection, &token, &fence));
	return fence;
}

static void a_fence_ends(void)
{
	struct dmashare_connection *connection = connect_to_machine();
	int source = sim_fence(), fd = -2, dup = -2;
	struct dmashare_shared_fence *shared = share(connection, source, NULL);
	struct dmashare_fence *fence = import(connection, shared), *late;
	struct dmashare_status status = { .state = 99 };
	struct dmashare_device *device;

	IS(dmashare_shared_fence_guard(shared), DMASHARE_GUARD_SIMULATED);
	IS(dmashare_fence_guard(fence), DMASHARE_GUARD_SIMULATED);
	CHECK(dmashare_shared_fence_id(shared) != 0);
	CHECK(dmashare_fence_id(fence) != 0);
	IS(dmashare_shared_fence_is_lost(shared), 0);
	IS(dmashare_fence_is_lost(fence), 0);
	OK(dmashare_shared_fence_device(shared, &device));
	OK(dmashare_device_destroy(device));
	OK(dmashare_fence_device(fence, &device));
	OK(dmashare_device_destroy(device));
	OK(dmashare_fence_status(fence, &status));
	IS(status.state, DMASHARE_PENDING);
	OK(dmashare_fence_wait(fence, 1000, &status));
	IS(status.state, DMASHARE_PENDING);
	OK(dmashare_shared_fence_query(shared, &status));
	IS(status.state, DMASHARE_PENDING);
	OK(dmashare_fence_fd(fence, &fd));
	OK(dmashare_fence_dup_fd(fence, &dup));
	CHECK(fd >= 0 && dup >= 0 && fd != dup);
	IS(fcntl(dup, F_GETFD), FD_CLOEXEC);

	sim_fence_end(source, 0);
	OK(dmashare_fence_wait(fence, LONG, &status));
	IS(status.state, DMASHARE_OK);
	IS(status.error, 0);
	CHECK(status.at_ns > 0);
	IS(poll(&(struct pollfd){ .fd = dup, .events = POLLIN }, 1, 0), 1);
	close(dup);
	OK(dmashare_shared_fence_query(shared, &status));
	IS(status.state, DMASHARE_OK);
	/* There is nothing to wait for any more. */
	late = import(connection, shared);
	OK(dmashare_fence_fd(late, &fd));
	IS(fd, -1);
	OK(dmashare_fence_dup_fd(late, &fd));
	IS(fd, -1);
	OK(dmashare_fence_status(late, &status));
	IS(status.state, DMASHARE_OK);
	OK(dmashare_fence_take_fd(late, &fd));
	IS(fd, -1);
	IS(dmashare_fence_destroy(late), -EINVAL);
	OK(dmashare_shared_fence_release(shared));
	OK(dmashare_fence_release(fence));
	OK(dmashare_connection_destroy(connection));
	close(source);
}

static void a_fence_fails(void)
{
	struct dmashare_connection *connection = connect_to_machine();
	int source = sim_fence();
	struct dmashare_shared_fence *shared = share(connection, source, NULL);
	struct dmashare_fence *fence = import(connection, shared);
	struct dmashare_status status;
	struct dmashare_error_info info = { .version = DMASHARE_ERROR_INFO_VERSION };

	sim_fence_end(source, EIO);
	OK(dmashare_fence_wait(fence, LONG, &status));
	IS(status.state, DMASHARE_FAILED);
	IS(status.cause, DMASHARE_CAUSE_EXPORTER);
	IS(status.error, -EIO);
	CHECK(strstr(dmashare_last_error(), "the driver of device"));
	OK(dmashare_last_error_info(&info));
	IS(info.error, -EIO);
	IS(info.object, dmashare_fence_id(fence));
	IS(info.device_lost, 0);
	OK(dmashare_fence_destroy(fence));
	OK(dmashare_shared_fence_destroy(shared));
	OK(dmashare_connection_destroy(connection));
	close(source);
}

static void the_card_is_pulled(void)
{
	struct dmashare_connection *connection = connect_to_machine();
	int source = sim_fence(), fd;
	struct dmashare_shared_fence *shared = share(connection, source, NULL);
	struct dmashare_fence *fence = import(connection, shared), *other = import(connection, shared);
	struct dmashare_error_info info = { .version = DMASHARE_ERROR_INFO_VERSION };
	struct dmashare_status status;

	OK(dmashare_fence_take_fd(other, &fd));
	IS(dmashare_fence_id(other), 0);
	machine_unplug();
	OK(dmashare_fence_wait(fence, DMASHARE_FOREVER, &status));
	IS(status.state, DMASHARE_FAILED);
	IS(status.cause, DMASHARE_CAUSE_UNPLUGGED);
	IS(status.error, -ENODEV);
	CHECK(status.at_ns > 0);
	OK(dmashare_last_error_info(&info));
	IS(info.device_lost, 1);
	IS(poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, 60000), 1);
	IS(dmashare_fence_is_lost(fence), 1);
	close(fd);
	OK(dmashare_fence_release(fence));
	OK(dmashare_shared_fence_release(shared));
	OK(dmashare_connection_destroy(connection));
	close(source);
}

static void deadlines_and_policies(void)
{
	struct dmashare_connection *connection = connect_to_machine();
	int source = sim_fence(), node = machine_node("egpu");
	struct dmashare_fence_options options = {
		.version = DMASHARE_FENCE_OPTIONS_VERSION, .policy = DMASHARE_POLICY_GUARD,
		.deadline_ns = 1000000,
	};
	struct dmashare_shared_fence *shared = share(connection, source, &options), *none = NULL;
	struct dmashare_fence *fence = import(connection, shared);
	struct dmashare_status status;

	OK(dmashare_fence_wait(fence, LONG, &status));
	IS(status.state, DMASHARE_FAILED);
	IS(status.cause, DMASHARE_CAUSE_TIMED_OUT);
	IS(status.error, -ETIMEDOUT);
	OK(dmashare_fence_destroy(fence));
	OK(dmashare_shared_fence_destroy(shared));

	options.policy = DMASHARE_POLICY_PASS;
	options.deadline_ns = 0;
	shared = share(connection, source, &options);
	IS(dmashare_shared_fence_guard(shared), DMASHARE_GUARD_SOURCE);
	OK(dmashare_shared_fence_destroy(shared));
	options.policy = 3;
	IS(dmashare_share_fence(connection, node, source, &options, &none), -EINVAL);
	options.policy = DMASHARE_POLICY_AUTO;
	options.deadline_ns = -1;
	IS(dmashare_share_fence(connection, node, source, &options, &none), -EINVAL);
	options.deadline_ns = 0;
	options.version = 0;
	IS(dmashare_share_fence(connection, node, source, &options, &none), -EINVAL);
	CHECK(!none);
	OK(dmashare_connection_destroy(connection));
	close(node);
	close(source);
}

/* Simulated guards are in no reservation object: the broker says so. The real thing is in the virtual
 * machine. */
static void fences_are_attached(void)
{
	struct dmashare_connection *connection = connect_to_machine(), *other = connect_to_machine();
	struct dmashare_export *buffer = export_small(connection, 1);
	struct dmashare_import *imported = import_small(connection, buffer);
	struct dmashare_neutral *neutral;
	int source = sim_fence();
	struct dmashare_shared_fence *shared = share(connection, source, NULL);
	struct dmashare_fence *fence = import(connection, shared), *foreign = import(other, shared);

	OK(dmashare_allocate(connection, 16, 16, XR24, &neutral));
	IS(dmashare_export_attach_shared(buffer, shared, DMASHARE_ACCESS_WRITE), -EOPNOTSUPP);
	IS(dmashare_export_attach(buffer, fence, DMASHARE_ACCESS_WRITE), -EOPNOTSUPP);
	IS(dmashare_import_attach_shared(imported, shared, DMASHARE_ACCESS_READ), -EOPNOTSUPP);
	IS(dmashare_import_attach(imported, fence, DMASHARE_ACCESS_READ), -EOPNOTSUPP);
	IS(dmashare_neutral_attach(neutral, fence, DMASHARE_ACCESS_READ), -EOPNOTSUPP);
	IS(dmashare_neutral_attach_shared(neutral, shared, DMASHARE_ACCESS_READ), -EOPNOTSUPP);
	IS(dmashare_import_attach(imported, foreign, DMASHARE_ACCESS_READ), -EINVAL);
	IS(dmashare_import_attach(imported, fence, (enum dmashare_access)4), -EINVAL);
	OK(dmashare_neutral_destroy(neutral));
	OK(dmashare_fence_destroy(foreign));
	OK(dmashare_connection_destroy(other));
	OK(dmashare_fence_destroy(fence));
	OK(dmashare_shared_fence_destroy(shared));
	OK(dmashare_import_destroy(imported));
	OK(dmashare_export_destroy(buffer));
	OK(dmashare_connection_destroy(connection));
	close(source);
}

static void timelines(void)
{
	struct dmashare_connection *maker = connect_to_machine(), *importer = connect_to_machine();
	struct dmashare_timeline *made = NULL, *imported = NULL;
	struct dmashare_error_info info = { .version = DMASHARE_ERROR_INFO_VERSION };
	struct dmashare_status status;
	struct dmashare_device *device;
	struct dmashare_token token;
	int node = machine_node("egpu"), source = sim_fence();
	struct pollfd lost = { .events = POLLIN };

	IS(dmashare_create_timeline(maker, node, DMASHARE_POLICY_AUTO, (enum dmashare_direction)2, &made),
	   -EINVAL);
	OK(dmashare_create_timeline(maker, node, DMASHARE_POLICY_AUTO, DMASHARE_ACQUIRE, &made));
	OK(dmashare_timeline_promise(made, 3));
	OK(dmashare_timeline_grant(made, NULL, &token));
	OK(dmashare_import_timeline(importer, &token, &imported));
	IS(dmashare_timeline_direction(imported), DMASHARE_ACQUIRE);
	IS(dmashare_timeline_promised(imported), 3);
	CHECK(dmashare_timeline_guard(imported) >= 0);
	CHECK(dmashare_timeline_id(imported) != 0);
	IS(dmashare_timeline_is_lost(imported), 0);
	OK(dmashare_timeline_device(imported, &device));
	OK(dmashare_device_destroy(device));
	CHECK(dmashare_timeline_syncobj_fd(imported) >= 0);
	lost.fd = dmashare_timeline_lost_fd(imported);
	IS(poll(&lost, 1, 0), 0);

	OK(dmashare_timeline_query(imported, 1, &status));
	IS(status.state, DMASHARE_PROMISED);
	OK(dmashare_timeline_query(imported, 4, &status));
	IS(status.state, DMASHARE_UNKNOWN);
	IS(dmashare_timeline_wait(imported, 1, 0), -ETIME);
	IS(dmashare_timeline_wait(imported, 1, 1000), -ETIME);
	OK(dmashare_last_error_info(&info));
	IS(info.point, 1);
	IS(info.object, dmashare_timeline_id(imported));
	OK(dmashare_timeline_submit(made, 1, node, source, 0));
	OK(dmashare_timeline_query(imported, 1, &status));
	IS(status.state, DMASHARE_PENDING);
	IS(dmashare_timeline_submit(made, 1, node, source, 0), -EINVAL);
	IS(dmashare_timeline_submit(made, 2, node, source, -5), -EINVAL);
	sim_fence_end(source, 0);
	OK(dmashare_timeline_wait(imported, 1, LONG));
	OK(dmashare_timeline_query(imported, 1, &status));
	IS(status.state, DMASHARE_OK);
	CHECK(status.at_ns > 0);
	OK(dmashare_timeline_submit_done(made, 2));
	OK(dmashare_timeline_wait(imported, 2, DMASHARE_FOREVER));
	/* A file stands for the node here, and takes no ioctl. */
	IS(dmashare_timeline_new_eventfd(imported, node, 3), -ENOTTY);

	machine_unplug();
	IS(dmashare_timeline_wait(imported, 3, LONG), -ENODEV);
	OK(dmashare_last_error_info(&info));
	IS(info.cause, DMASHARE_CAUSE_UNPLUGGED);
	IS(info.device_lost, 1);
	IS(info.point, 3);
	OK(dmashare_timeline_query(imported, 3, &status));
	IS(status.state, DMASHARE_FAILED);
	IS(status.error, -ENODEV);
	IS(poll(&lost, 1, 60000), 1);
	CHECK(lost.revents & POLLHUP);
	OK(dmashare_timeline_release(imported));
	OK(dmashare_timeline_destroy(made));
	OK(dmashare_connection_destroy(maker));
	OK(dmashare_connection_destroy(importer));
	close(node);
	close(source);
}

int main(void)
{
	static const struct test tests[] = {
		TEST(a_fence_ends),           TEST(a_fence_fails),       TEST(the_card_is_pulled),
		TEST(deadlines_and_policies), TEST(fences_are_attached), TEST(timelines),
	};

	return run_tests("fences", tests, sizeof(tests) / sizeof(*tests));
}
