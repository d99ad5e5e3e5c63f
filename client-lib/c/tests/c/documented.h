/* What the C in the documents takes for granted. */
#include <dmashare.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* libwayland-server's. */
struct wl_event_loop;
struct wl_event_source;
typedef int (*wl_event_loop_fd_func_t)(int fd, uint32_t mask, void *data);
struct wl_event_source *wl_event_loop_add_fd(struct wl_event_loop *loop, int fd, uint32_t mask,
                                             wl_event_loop_fd_func_t func, void *data);
#define WL_EVENT_READABLE 0x01

/* The reader's own. */
struct compositor {
	struct dmashare_connection *broker;
};
int fail(const char *error);
void forget(void *pixels);
#define OF_THE_READER                                                                                      \
	struct compositor *compositor, struct wl_event_loop *loop, struct dmashare_connection *broker,     \
	    struct dmashare_token token, void *pixels, size_t size
