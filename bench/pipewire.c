/*
 * A buffer handed from one process to another by PipeWire: the way in which it does that is a link between
 * two streams, for which it agrees on a format and has the source's buffers given to the sink.
 *
 *   source        has one memfd for whoever it is linked with; says the number of its node (u32)
 *   sink          says the number of its node, and then a byte for each buffer: '+' when it is given one,
 *                 '-' when that is taken away
 *   linker A B FD links node A with node B for each byte that it reads, and says how long it was until
 *                 the first '+' came from FD, the sink's output (u64, nanoseconds), when all is taken away
 *
 * PIPEWIRE_RUNTIME_DIR says where the daemon is. Built by `cargo xtask bench`.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pipewire/pipewire.h>
#include <signal.h>
#include <spa/param/buffers.h>
#include <spa/param/video/format-utils.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define WIDTH 64
#define HEIGHT 64
#define SIZE (WIDTH * HEIGHT * 4)

static _Noreturn void fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

static void say(const void *bytes, size_t size)
{
	if (write(STDOUT_FILENO, bytes, size) != (ssize_t)size)
		fail("the other side");
}

struct end {
	struct pw_stream *stream;
	enum pw_direction direction;
	bool named;
};

static void on_state(void *data, enum pw_stream_state old, enum pw_stream_state state, const char *error)
{
	struct end *end = data;

	(void)old;
	if (state == PW_STREAM_STATE_ERROR) {
		fprintf(stderr, "a stream: %s\n", error);
		exit(1);
	}
	if (state == PW_STREAM_STATE_PAUSED && !end->named) {
		uint32_t node = pw_stream_get_node_id(end->stream);

		end->named = true;
		say(&node, sizeof node);
	}
}

static void on_param(void *data, uint32_t id, const struct spa_pod *format)
{
	struct end *end = data;
	uint8_t bytes[512];
	struct spa_pod_builder builder = SPA_POD_BUILDER_INIT(bytes, sizeof bytes);
	const struct spa_pod *params[1];

	if (id != SPA_PARAM_Format || !format)
		return;
	params[0] = spa_pod_builder_add_object(
		&builder, SPA_TYPE_OBJECT_ParamBuffers, SPA_PARAM_Buffers,
		SPA_PARAM_BUFFERS_buffers, SPA_POD_Int(1), SPA_PARAM_BUFFERS_blocks, SPA_POD_Int(1),
		SPA_PARAM_BUFFERS_size, SPA_POD_Int(SIZE), SPA_PARAM_BUFFERS_stride, SPA_POD_Int(WIDTH * 4),
		SPA_PARAM_BUFFERS_dataType, SPA_POD_CHOICE_FLAGS_Int(1 << SPA_DATA_MemFd));
	pw_stream_update_params(end->stream, params, 1);
}

static void on_add_buffer(void *data, struct pw_buffer *buffer)
{
	struct end *end = data;
	struct spa_data *plane = &buffer->buffer->datas[0];

	if (end->direction == PW_DIRECTION_INPUT) {
		if (plane->fd < 0) {
			fprintf(stderr, "a buffer without a descriptor\n");
			exit(1);
		}
		say("+", 1);
		return;
	}
	plane->type = SPA_DATA_MemFd;
	plane->flags = SPA_DATA_FLAG_READWRITE;
	plane->fd = memfd_create("buffer", MFD_CLOEXEC);
	if (plane->fd < 0 || ftruncate((int)plane->fd, SIZE) < 0)
		fail("a buffer");
	plane->mapoffset = 0;
	plane->maxsize = SIZE;
	plane->data = NULL;
}

static void on_remove_buffer(void *data, struct pw_buffer *buffer)
{
	struct end *end = data;

	if (end->direction == PW_DIRECTION_OUTPUT)
		close((int)buffer->buffer->datas[0].fd);
	else
		say("-", 1);
}

static const struct pw_stream_events events = {
	PW_VERSION_STREAM_EVENTS,
	.state_changed = on_state,
	.param_changed = on_param,
	.add_buffer = on_add_buffer,
	.remove_buffer = on_remove_buffer,
};

static void stream(enum pw_direction direction)
{
	struct pw_main_loop *loop = pw_main_loop_new(NULL);
	struct end end = { .direction = direction };
	bool is_source = direction == PW_DIRECTION_OUTPUT;
	enum pw_stream_flags flags =
		is_source ? PW_STREAM_FLAG_DRIVER | PW_STREAM_FLAG_ALLOC_BUFFERS : PW_STREAM_FLAG_NONE;
	uint8_t bytes[512];
	struct spa_pod_builder builder = SPA_POD_BUILDER_INIT(bytes, sizeof bytes);
	const struct spa_pod *params[1];

	end.stream = pw_stream_new_simple(pw_main_loop_get_loop(loop), is_source ? "source" : "sink",
					  pw_properties_new(PW_KEY_MEDIA_TYPE, "Video", NULL), &events,
					  &end);
	if (!end.stream)
		fail("PipeWire");
	params[0] = spa_pod_builder_add_object(
		&builder, SPA_TYPE_OBJECT_Format, SPA_PARAM_EnumFormat, SPA_FORMAT_mediaType,
		SPA_POD_Id(SPA_MEDIA_TYPE_video), SPA_FORMAT_mediaSubtype,
		SPA_POD_Id(SPA_MEDIA_SUBTYPE_raw), SPA_FORMAT_VIDEO_format,
		SPA_POD_Id(SPA_VIDEO_FORMAT_BGRx), SPA_FORMAT_VIDEO_size,
		SPA_POD_Rectangle(&SPA_RECTANGLE(WIDTH, HEIGHT)), SPA_FORMAT_VIDEO_framerate,
		SPA_POD_Fraction(&SPA_FRACTION(60, 1)));
	if (pw_stream_connect(end.stream, direction, PW_ID_ANY, flags, params, 1) < 0)
		fail("a stream");
	pw_main_loop_run(loop);
}

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * UINT64_C(1000000000) + (uint64_t)time.tv_nsec;
}

static int round_trip;

static void on_done(void *data, uint32_t id, int sequence)
{
	(void)data, (void)id;
	if (sequence == round_trip)
		round_trip = 0;
}

static void on_error(void *data, uint32_t id, int sequence, int result, const char *message)
{
	(void)data, (void)id, (void)sequence, (void)result;
	fprintf(stderr, "PipeWire: %s\n", message);
	exit(1);
}

static const struct pw_core_events core_events = {
	PW_VERSION_CORE_EVENTS,
	.done = on_done,
	.error = on_error,
};

static void iterate(struct pw_loop *loop, int timeout)
{
	if (pw_loop_iterate(loop, timeout) < 0 && errno != EINTR)
		fail("PipeWire's loop");
}

static void link_all(const char *from, const char *to, int sink)
{
	struct pw_main_loop *main_loop = pw_main_loop_new(NULL);
	struct pw_loop *loop = pw_main_loop_get_loop(main_loop);
	struct pw_context *context = pw_context_new(loop, NULL, 0);
	struct pw_core *core = pw_context_connect(context, NULL, 0);
	struct spa_hook hook;
	char order;

	if (!core)
		fail("PipeWire");
	pw_core_add_listener(core, &hook, &core_events, NULL);
	pw_loop_enter(loop);
	while (read(STDIN_FILENO, &order, 1) == 1) {
		struct pw_properties *wanted = pw_properties_new(PW_KEY_LINK_OUTPUT_NODE, from,
								 PW_KEY_LINK_INPUT_NODE, to, NULL);
		struct pollfd words = { .fd = sink, .events = POLLIN };
		uint64_t start = now(), took = 0;
		int given = 0;
		struct pw_proxy *link = pw_core_create_object(core, "link-factory",
							      PW_TYPE_INTERFACE_Link, PW_VERSION_LINK,
							      &wanted->dict, 0);

		if (!link)
			fail("a link");
		/* Until the first buffer is there; and then until the last is taken away. */
		while (!took || given) {
			char word;

			iterate(loop, 0);
			if (poll(&words, 1, 0) == 0)
				continue;
			if (read(sink, &word, 1) != 1)
				fail("the sink");
			given += word == '+' ? 1 : -1;
			if (took)
				continue;
			took = now() - start;
			pw_proxy_destroy(link);
		}
		pw_properties_free(wanted);
		/* It is gone on both sides before the next one. */
		round_trip = pw_core_sync(core, PW_ID_CORE, 0);
		while (round_trip)
			iterate(loop, -1);
		say(&took, sizeof took);
	}
}

int main(int argc, char **argv)
{
	/* It ends with the benchmark. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		fail("prctl");
	pw_init(&argc, &argv);
	if (argc == 2 && strcmp(argv[1], "source") == 0)
		stream(PW_DIRECTION_OUTPUT);
	else if (argc == 2 && strcmp(argv[1], "sink") == 0)
		stream(PW_DIRECTION_INPUT);
	else if (argc == 5 && strcmp(argv[1], "linker") == 0)
		link_all(argv[2], argv[3], atoi(argv[4]));
	else {
		fprintf(stderr, "usage: see the head of pipewire.c\n");
		return 2;
	}
	return 0;
}
