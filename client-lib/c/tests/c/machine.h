/* A simulated machine with a broker of its own, and what tests of libdmashare have in common. */
#ifndef MACHINE_H
#define MACHINE_H

#include <dmashare.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#define XR24 0x34325258u
#define SECOND 1000000000ll
/* What takes longer than this has failed: far more than anything takes on a busy machine. */
#define LONG (60 * SECOND)

/* Ends the test where it is not so, and says what the library said. */
#define CHECK(condition) \
	do { \
		if (!(condition)) \
			test_failed(__FILE__, __LINE__, #condition); \
	} while (0)
/* The same for a result, which is shown. */
#define IS(expression, wanted) \
	test_is(__FILE__, __LINE__, #expression, (long long)(expression), (long long)(wanted))
#define OK(expression) IS(expression, 0)

void test_failed(const char *file, int line, const char *what) __attribute__((noreturn));
void test_is(const char *file, int line, const char *what, long long got, long long wanted);

struct test {
	const char *name;
	void (*run)(void);
	/* Why it cannot be run by valgrind, if it cannot. */
	const char *not_by_valgrind;
};
#define TEST(function) { #function, function, NULL }
#define TEST_BUT_NOT_BY_VALGRIND(function, why) { #function, function, why }
/* Runs each on a machine of its own, and sees that no descriptor and no handle is left. */
int run_tests(const char *file, const struct test *tests, size_t count);

/* The test's machine: an eGPU "egpu" that can be pulled, an "igpu" that cannot, and the broker. */
const char *machine_socket(void);
void machine_unplug(void);
void machine_plug(void);
/* A uevent of the eGPU's primary node; `more` are further lines, each with its zero byte. */
void machine_uevent(const char *action, const char *more, size_t more_size);
void machine_stop_broker(void);
void machine_start_broker(void);
/* An open node of "egpu" or "igpu". */
int machine_node(const char *device);

struct dmashare_connection *connect_to_machine(void);
int sim_buffer(size_t size, uint8_t fill); /* what stands for a dma-buf */
int sim_fence(void);                       /* what stands for a sync_file, pending */
void sim_fence_end(int fence, int error);  /* 0, or a positive errno */
int count_fds(void);

extern const struct dmashare_layout small; /* 16 × 16 pixels in one plane of 4096 bytes */
struct dmashare_export *export_small(struct dmashare_connection *connection, uint8_t fill);
struct dmashare_import *import_small(struct dmashare_connection *connection,
                                     struct dmashare_export *buffer);

/* What a listener was told, counted. */
struct told {
	int added, lost, gone, wedged, disconnected, removal, reconnected;
	uint64_t device; /* that was told of last */
	int error;
	struct dmashare_lost_info info;
};
extern const struct dmashare_listener counting;
/* Dispatches until one of the counters is at least `wanted`. */
void dispatch_until(struct dmashare_connection *connection, const int *counter, int wanted);

#ifdef __cplusplus
}
#endif

#endif
