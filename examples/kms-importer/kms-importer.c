/*
 * kms-importer CARD [SOCKET]: shows buffers of other GPUs' on CARD's screen (/dev/dri/card1), and keeps the last
 * good frame when their GPU is pulled.
 *
 * Each line on standard input, `BUFFER-TOKEN FENCE-TOKEN`, is a frame: it is imported, and flipped to when its
 * fence has ended. Lines on standard output say what has happened. The end of the input ends the program.
 * To be seen here: how a compositor in C uses libdmashare. A guard goes to the kernel as IN_FENCE_FD, so that the
 * flip ends whatever happens to the GPU; a frame whose fence has failed is not left on screen; what was shown is
 * copied into a neutral buffer, which no unplug takes; and a lost device is acknowledged when nothing of it is held.
 */
#include <dmashare.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <drm_fourcc.h>
#include <xf86drm.h>
#include <xf86drmMode.h>

/* What can be shown: a buffer, as the card knows it. */
struct picture {
	struct dmashare_import *import;   /* another GPU's, */
	struct dmashare_neutral *neutral; /* or nobody's */
	struct dmashare_fence *fence;
	uint32_t handle, framebuffer;
	unsigned int number;
};

static int card;
static uint32_t connector_id, crtc_id, plane_id, framebuffer_property, fence_property;
static drmModeModeInfo mode;
/* On screen; queued, and not yet on screen (its number is 0 if there is none); the last good one's copy. */
static struct picture shown, queued, kept;

static void fail(const char *what, int error, const char *why)
{
	fprintf(stderr, "kms-importer: %s: %s\n", what, why && *why ? why : strerror(error));
	exit(1);
}

/* A call of the library's that has to succeed. */
static void need(int result, const char *what)
{
	if (result < 0)
		fail(what, -result, dmashare_last_error());
}

/* One of libdrm's, which gives a negative errno, or -1 and errno. */
static void need_drm(int result, const char *what)
{
	if (result < 0)
		fail(what, result == -1 ? errno : -result, NULL);
}

/* A property of a plane's. */
static uint32_t property(uint32_t plane, const char *name, uint64_t *value)
{
	drmModeObjectProperties *all = drmModeObjectGetProperties(card, plane, DRM_MODE_OBJECT_PLANE);
	uint32_t id = 0;

	for (uint32_t i = 0; all && i < all->count_props && !id; i++) {
		drmModePropertyRes *one = drmModeGetProperty(card, all->props[i]);

		if (one && strcmp(one->name, name) == 0) {
			id = one->prop_id;
			*value = all->prop_values[i];
		}
		drmModeFreeProperty(one);
	}
	drmModeFreeObjectProperties(all);
	if (!id)
		fail(name, ENOENT, "no such property");
	return id;
}

static void open_screen(const char *path)
{
	uint64_t value = 0;

	card = open(path, O_RDWR | O_CLOEXEC);
	need_drm(card, path);
	need_drm(drmSetClientCap(card, DRM_CLIENT_CAP_ATOMIC, 1), "atomic mode setting");
	drmModeRes *resources = drmModeGetResources(card);
	drmModePlaneRes *planes = drmModeGetPlaneResources(card);
	if (!resources || !planes || resources->count_crtcs == 0)
		fail(path, ENODEV, "it has no screen");
	crtc_id = resources->crtcs[0];
	for (int i = 0; i < resources->count_connectors && !connector_id; i++) {
		drmModeConnector *connector = drmModeGetConnector(card, resources->connectors[i]);

		if (connector && connector->connection == DRM_MODE_CONNECTED && connector->count_modes > 0) {
			connector_id = connector->connector_id;
			/* They are sorted, and the smallest is enough. */
			mode = connector->modes[connector->count_modes - 1];
		}
		drmModeFreeConnector(connector);
	}
	for (uint32_t i = 0; i < planes->count_planes && !plane_id; i++) {
		drmModePlane *plane = drmModeGetPlane(card, planes->planes[i]);

		property(planes->planes[i], "type", &value);
		if (plane && plane->possible_crtcs & 1 && value == DRM_PLANE_TYPE_PRIMARY)
			plane_id = planes->planes[i];
		drmModeFreePlane(plane);
	}
	if (!connector_id || !plane_id)
		fail(path, ENODEV, "no screen is connected");
	framebuffer_property = property(plane_id, "FB_ID", &value);
	fence_property = property(plane_id, "IN_FENCE_FD", &value);
	drmModeFreePlaneResources(planes);
	drmModeFreeResources(resources);
}

/* Called with the dma-buf, which is lent until this returns. */
static int import_into_card(int fd, void *handle)
{
	return drmPrimeFDToHandle(card, fd, handle) < 0 ? -errno : 0;
}

static int make_framebuffer(struct picture *picture)
{
	struct dmashare_layout layout;
	uint32_t handles[4] = { 0 }, strides[4] = { 0 }, offsets[4] = { 0 };

	if (picture->import ? dmashare_import_layout(picture->import, &layout) < 0 ||
	    dmashare_import_with_plane_fd(picture->import, 0, import_into_card, &picture->handle) < 0
	    : dmashare_neutral_layout(picture->neutral, &layout) < 0 ||
	    dmashare_neutral_with_plane_fd(picture->neutral, 0, import_into_card, &picture->handle) < 0)
		return -1;
	handles[0] = picture->handle;
	strides[0] = layout.planes[0].stride;
	offsets[0] = layout.planes[0].offset;
	need_drm(drmModeAddFB2(card, layout.width, layout.height, layout.fourcc, handles, strides,
	                       offsets, &picture->framebuffer, 0), "framebuffer");
	return 0;
}

/* Lets go of everything that was made of a buffer, and then of the buffer. */
static void drop(struct picture *picture)
{
	if (picture->framebuffer)
		drmModeRmFB(card, picture->framebuffer);
	if (picture->handle)
		drmCloseBufferHandle(card, picture->handle);
	if (picture->fence)
		dmashare_fence_destroy(picture->fence);
	if (picture->import)
		dmashare_import_destroy(picture->import);
	if (picture->neutral)
		dmashare_neutral_destroy(picture->neutral);
	memset(picture, 0, sizeof(*picture));
}

static void flip(uint32_t framebuffer, int fence, uint32_t flags)
{
	drmModeAtomicReq *request = drmModeAtomicAlloc();

	drmModeAtomicAddProperty(request, plane_id, framebuffer_property, framebuffer);
	if (fence >= 0)
		drmModeAtomicAddProperty(request, plane_id, fence_property, (uint64_t)fence);
	need_drm(drmModeAtomicCommit(card, request, flags, NULL), "flip");
	drmModeAtomicFree(request);
}

/* The screen shows the queued frame. Whether that is what was to be drawn, its fence tells. */
static void flipped(int fd, unsigned int frame, unsigned int s, unsigned int us, void *data)
{
	struct dmashare_status status;
	struct picture copy = { .number = queued.number };

	(void)fd, (void)frame, (void)s, (void)us, (void)data;
	need(dmashare_fence_status(queued.fence, &status), "the fence");
	if (status.state == DMASHARE_FAILED) {
		printf("frame %u failed: %s\n", queued.number, dmashare_last_error());
		flip(kept.framebuffer, -1, 0);
		drop(&queued);
		return;
	}
	drop(&shown);
	shown = queued;
	memset(&queued, 0, sizeof(queued));
	printf("frame %u shown\n", shown.number);
	/* An older copy is better than a torn one. */
	if (dmashare_preserve(shown.import, &copy.neutral) < 0 || make_framebuffer(&copy) < 0) {
		printf("frame %u not kept: %s\n", shown.number, dmashare_last_error());
		drop(&copy);
	} else {
		printf("frame %u kept\n", copy.number);
		drop(&kept);
		kept = copy;
	}
}

static drmEventContext events = { .version = 2, .page_flip_handler = flipped };

static void lost(void *data, struct dmashare_connection *connection, struct dmashare_lost *lost)
{
	struct dmashare_lost_info info = { .version = DMASHARE_LOST_INFO_VERSION };

	(void)data, (void)connection;
	need(dmashare_lost_info(lost, &info), "the loss");
	/* Its guard has ended, so this is not for long. */
	while (queued.number)
		need_drm(drmHandleEvent(card, &events), "the card's events");
	for (uint32_t i = 0; shown.import && i < info.imports; i++) {
		if (dmashare_lost_import(lost, i) == dmashare_import_id(shown.import)) {
			flip(kept.framebuffer, -1, 0);
			drop(&shown);
		}
	}
	printf("lost device %llu: %s; frame %u stays\n", (unsigned long long)info.device,
	       dmashare_cause_name(info.cause), kept.number);
}

static void gone(void *data, struct dmashare_connection *connection, uint64_t device)
{
	(void)data, (void)connection;
	printf("gone device %llu\n", (unsigned long long)device);
}

/* A line of standard input. */
static void show(struct dmashare_connection *connection, const char *line)
{
	static unsigned int number;
	struct dmashare_token buffer_token, fence_token;
	char buffer[33], fence[33];
	int fd;

	queued.number = ++number;
	if (sscanf(line, "%32s %32s", buffer, fence) != 2)
		fail("standard input", EINVAL, "a line is BUFFER-TOKEN FENCE-TOKEN");
	need(dmashare_token_from_hex(fence, &fence_token), "the fence's token");
	need(dmashare_token_from_hex(buffer, &buffer_token), "the buffer's token");
	if (dmashare_import_fence(connection, &fence_token, &queued.fence) < 0 ||
	    dmashare_import_buffer(connection, &buffer_token, card, &queued.import) < 0 ||
	    make_framebuffer(&queued) < 0) {
		printf("frame %u refused: %s\n", number, dmashare_last_error());
		drop(&queued);
		return;
	}
	need(dmashare_fence_fd(queued.fence, &fd), "the fence");
	flip(queued.framebuffer, fd, DRM_MODE_ATOMIC_NONBLOCK | DRM_MODE_PAGE_FLIP_EVENT);
	printf("frame %u queued\n", number);
}

int main(int count, char **words)
{
	const struct dmashare_connect_options options = {
		.version = DMASHARE_CONNECT_OPTIONS_VERSION, .name = "kms-importer",
	};
	const struct dmashare_listener listener = { .version = 1, .device_lost = lost, .device_gone = gone };
	struct dmashare_connection *connection;
	char line[128];

	if (count < 2 || count > 3)
		fail("usage", EINVAL, "kms-importer CARD [SOCKET]");
	setvbuf(stdout, NULL, _IOLBF, 0);
	setvbuf(stdin, NULL, _IONBF, 0);
	need(count == 3 ? dmashare_connect_to(words[2], &options, &connection)
	                : dmashare_connect(&options, &connection), "the broker");
	need(dmashare_connection_set_listener(connection, &listener, NULL), "the listener");
	open_screen(words[1]);
	/* Frame 0 is black: until the first, and where there never is one. */
	need(dmashare_allocate(connection, mode.hdisplay, mode.vdisplay, DRM_FORMAT_XRGB8888, &kept.neutral),
	     "a neutral buffer");
	need(make_framebuffer(&kept), "a neutral buffer on the card");
	/* The old way to turn it on does all at once. */
	need_drm(drmModeSetCrtc(card, crtc_id, kept.framebuffer, 0, 0, &connector_id, 1, &mode),
	         "turn the screen on");
	printf("screen %ux%u\n", mode.hdisplay, mode.vdisplay);
	for (;;) {
		/* While a flip is queued, the kernel takes no other: the next line waits. */
		struct pollfd fds[] = {
			{ .fd = dmashare_connection_fd(connection), .events = POLLIN },
			{ .fd = card, .events = POLLIN },
			{ .fd = queued.number ? -1 : STDIN_FILENO, .events = POLLIN },
		};

		if (poll(fds, 3, -1) < 0 && errno != EINTR)
			fail("poll", errno, NULL);
		if (fds[1].revents)
			need_drm(drmHandleEvent(card, &events), "the card's events");
		if (fds[0].revents)
			need(dmashare_dispatch(connection, 0), "the broker");
		if (fds[2].revents) {
			if (!fgets(line, sizeof(line), stdin))
				break;
			show(connection, line);
		}
	}
	drop(&shown);
	drop(&kept);
	dmashare_connection_destroy(connection);
	printf("handles left: %zu\n", dmashare_handle_count());
	return 0;
}
