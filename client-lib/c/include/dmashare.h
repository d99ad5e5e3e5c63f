/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * libdmashare: share dma-bufs, fences and timelines between processes on different GPUs through
 * dmashared, so that pulling an external GPU is an event and not a crash.
 *
 * ERRORS. A function that returns int returns 0 or a positive value, or a negative errno. What went
 * wrong, to which object, and what to do, is then in dmashare_last_error(), of the calling thread.
 * Every function may give:
 *   -EINVAL  a pointer is NULL that must not be, a value is none of its enum, an options struct has
 *            version 0, or a handle is none: destroyed before, of another type, or never given out
 *   -EBADF   a descriptor that was passed is not open
 *   -ECHILD  the handle was made before a fork, and this is the child
 *   -EIO     a mistake inside of this library, which it reports on standard error
 * Those that ask the broker also:
 *   -ENODEV     the device is lost         -ECONNRESET  the broker closed the connection
 *   -EDQUOT     a quota is used up         -EPROTO      it broke the protocol; the connection is closed
 *   -EACCES     the token is no good       -ETIMEDOUT   it did not answer within the patience
 *   -EOPNOTSUPP the kernel cannot do it    -ENOENT, -ENXIO  it knows no such object, no such device
 * Nothing was changed by a call that failed, unless said otherwise, and *out parameters are untouched.
 * A function that returns an id, a size or a pointer returns 0 or NULL where it has none to give.
 *
 * HANDLES are opaque, and no addresses: never dereference or compute with them. A value is given out
 * once in a process, so a handle that is used or destroyed again after it was destroyed is -EINVAL,
 * never another object. Only dmashare_mapping_begin, _end, _pointer and _size, which are a few loads,
 * must not run while another thread destroys the mapping; every other call may.
 * Handles can be destroyed in any order: what one needs of another it keeps. The connection is closed
 * with the last handle that came from it. A release function destroys too; with -EBUSY, and without
 * waiting for the broker, while another thread is in a call with the handle.
 *
 * DESCRIPTORS that are passed in are borrowed: they stay the caller's, and can be closed when the
 * function returns. A function with "take" in its name takes its descriptor over. Descriptors that
 * come out are borrowed from their handle too, and not to be closed; from a function with "take",
 * "dup" or "new" in its name, they are the caller's to close. All have FD_CLOEXEC.
 *
 * THREADS. Every function may be called on every thread, on the same handle at the same time.
 * There is no thread inside. Callbacks are called on the thread that is in dmashare_dispatch() (or in
 * dmashare_import_with_plane_fd()), without a lock held; they may call anything here, may destroy
 * anything, and must return: no longjmp, no C++ exception.
 *
 * FORK. Handles are the parent's. In the child every call with one gives -ECHILD, and only its destroy
 * function does something: it frees the memory, closes the child's copies of the descriptors, unmaps
 * the child's copy of the mappings, tells the broker nothing, and returns 0. (The calls that are a few
 * loads see the fork as well.) The child may make connections of its own. After fork in a program
 * with threads, POSIX allows little before exec; nothing here is async-signal-safe.
 *
 * TIMES are nanoseconds. Of a timeout, 0 does not wait, and less than 0 (DMASHARE_FOREVER) waits for
 * ever; signals in between do not end a wait. A point in time is one of CLOCK_MONOTONIC.
 *
 * STRUCTS with a field `version` are read as far as that version goes: set it to the constant beside
 * the struct, so that the program goes on working with a library that knows more fields.
 */
#ifndef DMASHARE_H
#define DMASHARE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DMASHARE_FOREVER (-1)

struct dmashare_connection; /* to the broker */
struct dmashare_device_list;
struct dmashare_device;       /* one GPU, for as long as it is plugged in */
struct dmashare_export;       /* a buffer of this process's */
struct dmashare_import;       /* a buffer of another process's */
struct dmashare_neutral;      /* a buffer that belongs to no GPU */
struct dmashare_mapping;      /* memory of an imported or a neutral buffer */
struct dmashare_shared_fence; /* a fence of this process's */
struct dmashare_fence;        /* a fence of another process's */
struct dmashare_timeline;     /* a drm_syncobj timeline */
struct dmashare_lost;         /* a device that was lost, to be acknowledged */
struct dmashare_inhibitor;    /* holds ejects up */

/* ---- Errors ---------------------------------------------------------------------------------- */

/* The sentence for the last call on this thread that failed; "" before the first. Never NULL. Valid
 * until the next call on this thread that fails. */
const char *dmashare_last_error(void);

enum dmashare_cause {
	DMASHARE_CAUSE_UNKNOWN = 0,
	DMASHARE_CAUSE_UNPLUGGED = 1, /* the kernel reported the removal */
	DMASHARE_CAUSE_VANISHED = 2,  /* the device was not there when it was looked at */
	DMASHARE_CAUSE_WEDGED = 3,    /* its driver declared it wedged */
	DMASHARE_CAUSE_EJECTED = 4,
	DMASHARE_CAUSE_EXPORTER = 5,  /* its driver ended the fence with an error */
	DMASHARE_CAUSE_TIMED_OUT = 6, /* the fence passed its deadline */
	DMASHARE_CAUSE_REHEARSED = 7, /* the hardware is untouched */
};

/* "unplugged", as on D-Bus; "unknown" for what is none. Never NULL; for good. */
const char *dmashare_cause_name(enum dmashare_cause cause);

struct dmashare_error_info {
	uint32_t version;    /* in: DMASHARE_ERROR_INFO_VERSION */
	int32_t error;       /* what was returned: a negative errno, 0 if nothing has failed */
	uint32_t code;       /* the broker's, of PROTOCOL.md; 0 if it was not the broker that refused */
	uint32_t cause;      /* enum dmashare_cause */
	int32_t device_lost; /* 1: the loss of a device is the reason, whoever noticed it */
	int32_t disconnected; /* 1: the connection is of no more use */
	uint64_t device;     /* the device that it is about; 0 for none */
	uint64_t object;     /* the fence or timeline that failed; 0 for none */
	uint64_t point;      /* the point of the timeline; 0 for none */
	int64_t at_ns;       /* when it failed; 0 if that is not known */
};
#define DMASHARE_ERROR_INFO_VERSION 1

/* What a program can act on of the last failure of this thread. */
int dmashare_last_error_info(struct dmashare_error_info *info);

/* "1.0.0": the version of the library that runs. Never NULL; for good. */
const char *dmashare_version(void);

/* How many handles this process has not destroyed. 0 at the end of a program that leaks none. */
size_t dmashare_handle_count(void);

/* ---- Connection ------------------------------------------------------------------------------ */

struct dmashare_connect_options {
	uint32_t version;    /* DMASHARE_CONNECT_OPTIONS_VERSION */
	const char *name;    /* what tables and logs call the process, at most 64 bytes of UTF-8;
	                        NULL: its executable's name */
	int64_t patience_ns; /* how long a call waits for the broker's answer; 0: 30 s, < 0: for ever */
	uint32_t reconnect;  /* 1: when the connection ends, the library makes it anew, on the same
	                        descriptor: the listener's `disconnected` and `reconnected` tell */
	uint32_t reserved;
};
#define DMASHARE_CONNECT_OPTIONS_VERSION 1

/* Connects to the socket that $DMASHARE_SOCKET names, else to /run/dmashare/broker.sock. `options` may
 * be NULL. Also gives the errno of connect(2): -ENOENT, -ECONNREFUSED, -EACCES; and -EPROTONOSUPPORT
 * if the broker speaks no version in common. */
int dmashare_connect(const struct dmashare_connect_options *options,
                     struct dmashare_connection **connection);

/* Connects to the socket at `path`. */
int dmashare_connect_to(const char *path, const struct dmashare_connect_options *options,
                        struct dmashare_connection **connection);

/* Takes over a connected SOCK_SEQPACKET socket, as D-Bus Connect() gives one. It is closed if this
 * fails too, except with -EBADF, and with -EINVAL for the other arguments. */
int dmashare_connect_take_fd(int socket, const struct dmashare_connect_options *options,
                             struct dmashare_connection **connection);

/* States what is to be done with this process when a device that it uses goes, and whether it survives
 * that (1 or 0) without a loss to its user. It takes the place of what was stated before: at first
 * DMASHARE_LOSS_WAIT and 0. People are shown it, and ejects honour it. */
enum dmashare_loss {
	DMASHARE_LOSS_WAIT = 0,     /* it lets go by itself: it is waited for, up to a limit */
	DMASHARE_LOSS_RELAUNCH = 1, /* it is to be ended and started anew, by whoever started it */
	DMASHARE_LOSS_KILL = 2,     /* it may be killed at once where it stands in the way */
	DMASHARE_LOSS_IGNORE = 3,   /* it is not waited for, and nothing is done to it */
};
int dmashare_declare(struct dmashare_connection *connection, enum dmashare_loss on_loss, int survives);

enum dmashare_inhibit_mode {
	DMASHARE_INHIBIT_DELAY = 0, /* up to the broker's limit, to save something */
	DMASHARE_INHIBIT_BLOCK = 1, /* an eject is refused, and `why` told to who asked */
};

/* Holds up ejects of a device, or of each for 0, until the result is destroyed. `why` is for people, 1 to
 * 128 bytes of UTF-8. A card that is pulled waits for nobody. */
int dmashare_inhibit(struct dmashare_connection *connection, uint64_t device,
                     enum dmashare_inhibit_mode mode, const char *why,
                     struct dmashare_inhibitor **inhibitor);
uint64_t dmashare_inhibitor_id(struct dmashare_inhibitor *inhibitor);
/* Gives it back without waiting; and waiting for the broker. */
int dmashare_inhibitor_destroy(struct dmashare_inhibitor *inhibitor);
int dmashare_inhibitor_release(struct dmashare_inhibitor *inhibitor);

/* Its listener is not called again, unless another thread is in it, and no more events are read. */
int dmashare_connection_destroy(struct dmashare_connection *connection);

/* A descriptor for an event loop, or a negative errno: readable (POLLIN) while there is something for
 * dmashare_dispatch(), and for good once the connection is closed and not made anew. Only to be waited on. Borrowed:
 * valid until the last handle of the connection is destroyed. */
int dmashare_connection_fd(struct dmashare_connection *connection);

/* 16 bytes that are random for each life of the broker's state: ids mean something only beside it. */
int dmashare_connection_instance(struct dmashare_connection *connection, uint8_t instance[16]);

enum dmashare_guard {
	DMASHARE_GUARD_SOURCE = 0, /* none was needed: the source itself is passed on */
	DMASHARE_GUARD_SW_SYNC = 1,
	DMASHARE_GUARD_VGEM = 2,
	DMASHARE_GUARD_SIMULATED = 3,
	DMASHARE_GUARD_NONE = 4,
};

/* Which guards the broker makes (enum dmashare_guard), or a negative errno. */
int dmashare_connection_guard(struct dmashare_connection *connection);

/* 1 if the connection is of no more use, with `reconnect` until it is made anew; else 0. */
int dmashare_connection_is_closed(struct dmashare_connection *connection);

/* A driver has declared its device wedged; it is still there. May grow at its end. */
struct dmashare_wedged {
	uint64_t device;
	int64_t at_ns;
	uint32_t fences;             /* of this process's that ended with the cause */
	uint32_t recovery_count;
	const char *const *recovery; /* the ways out that the driver names, in its order */
	const char *task;            /* that the driver blames; NULL if it names none */
};

/* Somebody asks that a device be let go of, by a synthetic `remove` uevent or before an eject. It is
 * present, and everything of it works: what is to be kept can be moved. May grow at its end. */
struct dmashare_removal {
	uint64_t device;
	const char *why; /* who asks, in words */
	/* The imports that dmashare_import_preserve_on_request() was called for. */
	uint32_t preserved_count;
	const struct dmashare_preserved *preserved;
};

struct dmashare_preserved {
	uint64_t import;
	struct dmashare_neutral *copy; /* the callback's, to be destroyed some time; NULL if there is none */
	int32_t error;                 /* why there is none, a negative errno; else 0 */
	uint32_t reserved;
};

/* Another connection in the place of one that has ended. Nothing of the former one is left: mappings
 * of its imports show zeros, its devices read as lost, calls on its handles give -ECONNRESET. Neutral
 * buffers stay, for whoever has them. List the devices, and export and import again. May grow at its
 * end. */
struct dmashare_reconnected {
	uint32_t same_instance; /* 1: the same life of the broker's state */
	uint32_t import_count;
	const uint64_t *imports; /* that were taken back */
};

/* What happens without being asked for. Every pointer given to a callback is valid until the callback
 * returns. A callback may be NULL. */
struct dmashare_listener {
	uint32_t version; /* DMASHARE_LISTENER_VERSION */

	/* A device is there. The handle is the library's: keep it with dmashare_device_dup(). */
	void (*device_added)(void *data, struct dmashare_connection *connection,
	                     struct dmashare_device *device);

	/* A device is lost. The mappings of its buffers show zeros, and the library has closed the
	 * buffers' descriptors. Drop the GEM handles, textures and duplicated descriptors that were made
	 * of them: when this returns, the loss is acknowledged, without waiting for the broker. Or take
	 * `lost` with dmashare_lost_take(), and acknowledge later. */
	void (*device_lost)(void *data, struct dmashare_connection *connection,
	                    struct dmashare_lost *lost);

	/* Nothing of a lost device is left anywhere. */
	void (*device_gone)(void *data, struct dmashare_connection *connection, uint64_t device);

	void (*device_wedged)(void *data, struct dmashare_connection *connection,
	                      const struct dmashare_wedged *wedged);

	/* The connection has ended, with -ECONNRESET or -EPROTO, after the last event of it. Once, and
	 * dmashare_dispatch() then returns the same; or with `reconnect` each time, and it is made anew. */
	void (*disconnected)(void *data, struct dmashare_connection *connection, int error);

	/* Version 2: */

	void (*removal_requested)(void *data, struct dmashare_connection *connection,
	                          const struct dmashare_removal *removal);

	void (*reconnected)(void *data, struct dmashare_connection *connection,
	                    const struct dmashare_reconnected *reconnected);

	/* Version 3: */

	/* The eject of which `removal_requested` told does not take place: the device can be used as
	 * before. */
	void (*device_stays)(void *data, struct dmashare_connection *connection, uint64_t device);
};
#define DMASHARE_LISTENER_VERSION 3

/* Sets what dmashare_dispatch() calls, with `data`. The struct is copied; NULL takes it away. Without
 * a listener, or without the callback, events are read all the same: a lost device is taken back and
 * acknowledged. */
int dmashare_connection_set_listener(struct dmashare_connection *connection,
                                     const struct dmashare_listener *listener, void *data);

/* Reads what is there and calls the listener; waits for the first event until the time is up. The
 * number of events, which is 0 when the time was up; or a negative errno, after the last event. To be
 * called when the descriptor is readable. A callback that destroys the connection ends it: what was
 * read before and not told is dropped, as if there were no listener. */
int dmashare_dispatch(struct dmashare_connection *connection, int64_t timeout_ns);

/* ---- Devices --------------------------------------------------------------------------------- */

/* The GPUs that are there, as they are now. */
int dmashare_list_devices(struct dmashare_connection *connection,
                          struct dmashare_device_list **list);
int dmashare_device_list_destroy(struct dmashare_device_list *list);

/* How many, or a negative errno. */
int dmashare_device_list_count(struct dmashare_device_list *list);

/* One of them, as a handle of its own. */
int dmashare_device_list_get(struct dmashare_device_list *list, size_t index,
                             struct dmashare_device **device);

int dmashare_device_destroy(struct dmashare_device *device);

/* Another handle for the same device. */
int dmashare_device_dup(struct dmashare_device *device, struct dmashare_device **dup);

/* Its id, never used again: the same card plugged in again is another device. */
uint64_t dmashare_device_id(struct dmashare_device *device);

enum dmashare_device_state {
	DMASHARE_DEVICE_PRESENT = 0,
	DMASHARE_DEVICE_DRAINING = 1, /* about to be ejected: nothing new may be made */
	DMASHARE_DEVICE_LOST = 2,
	DMASHARE_DEVICE_GONE = 3, /* nothing of it is left */
};

/* How it stands (enum dmashare_device_state), and whether it is lost (1 or 0): a load of memory that
 * the broker writes, without anybody reading events. A loss that was rehearsed for this process alone
 * is told by its event only. */
int dmashare_device_state(struct dmashare_device *device);
int dmashare_device_is_lost(struct dmashare_device *device);

/* Sleeps until it is lost: 1, or 0 when the time is up. Needs no event to be read. */
int dmashare_device_wait_lost(struct dmashare_device *device, int64_t timeout_ns);

/* As the broker described it; "", 0 and NULL for a handle that came from dmashare_*_device(). Valid
 * until the handle is destroyed. */
const char *dmashare_device_driver(struct dmashare_device *device); /* the kernel driver */
const char *dmashare_device_pci(struct dmashare_device *device);    /* "0000:01:00.0" or "" */
int dmashare_device_is_removable(struct dmashare_device *device);   /* 1: its fences are guarded */
int dmashare_device_node_count(struct dmashare_device *device);
const char *dmashare_device_node(struct dmashare_device *device, size_t index); /* "/dev/dri/card1" */

/* ---- Buffers of this process's --------------------------------------------------------------- */

#define DMASHARE_MAX_PLANES 4

struct dmashare_plane {
	uint32_t offset; /* bytes from the beginning of its dma-buf */
	uint32_t stride; /* bytes */
};

struct dmashare_layout {
	uint32_t width; /* pixels */
	uint32_t height;
	uint32_t fourcc; /* DRM_FORMAT_* */
	uint32_t plane_count;
	uint64_t modifier; /* DRM_FORMAT_MOD_* */
	struct dmashare_plane planes[DMASHARE_MAX_PLANES];
};

/* Makes a buffer known to the broker: `node` is an open DRM node of the device that made it (a render
 * node where there is one: a primary node that is DRM master stays so until the broker has closed its
 * copy), `planes` a dma-buf for each of layout->plane_count. */
int dmashare_export_buffer(struct dmashare_connection *connection, int node,
                           const struct dmashare_layout *layout, const int *planes,
                           struct dmashare_export **buffer);

/* Gives it back without waiting, or waiting for the broker: both destroy the handle, also where the
 * second fails. Imports outlive it. That its device is lost is no failure. */
int dmashare_export_destroy(struct dmashare_export *buffer);
int dmashare_export_release(struct dmashare_export *buffer);

uint64_t dmashare_export_id(struct dmashare_export *buffer);
int dmashare_export_is_lost(struct dmashare_export *buffer);
/* The device that it was made by, as a new handle. */
int dmashare_export_device(struct dmashare_export *buffer, struct dmashare_device **device);

/* ---- Tokens ---------------------------------------------------------------------------------- */

/* An unguessable right to import one object, to be handed to the other process by any channel. */
struct dmashare_token {
	uint8_t bytes[16];
};

enum dmashare_grantee {
	DMASHARE_GRANT_UID = 0, /* processes of one user */
	DMASHARE_GRANT_ANYONE = 1,
};

struct dmashare_grant {
	uint32_t version; /* DMASHARE_GRANT_VERSION */
	uint32_t to;      /* enum dmashare_grantee */
	uid_t uid;        /* for DMASHARE_GRANT_UID */
	uint32_t uses;    /* how often, at least once */
	int64_t ttl_ns;   /* for how long, up to a day */
};
#define DMASHARE_GRANT_VERSION 1

/* Makes a token for an object of this process's. `grant` may be NULL: once, within a minute, by a
 * process of this process's user. */
int dmashare_export_grant(struct dmashare_export *buffer, const struct dmashare_grant *grant,
                          struct dmashare_token *token);
int dmashare_shared_fence_grant(struct dmashare_shared_fence *fence,
                                const struct dmashare_grant *grant, struct dmashare_token *token);
int dmashare_timeline_grant(struct dmashare_timeline *timeline, const struct dmashare_grant *grant,
                            struct dmashare_token *token);
int dmashare_neutral_grant(struct dmashare_neutral *buffer, const struct dmashare_grant *grant,
                           struct dmashare_token *token);

/* dmashare_export_buffer() and dmashare_export_grant() in one, which takes half the time: there are both,
 * or neither. */
int dmashare_export_buffer_granted(struct dmashare_connection *connection, int node,
                                   const struct dmashare_layout *layout, const int *planes,
                                   const struct dmashare_grant *grant,
                                   struct dmashare_export **buffer, struct dmashare_token *token);

/* 32 hexadecimal digits and a zero byte, for a command line; and back. */
int dmashare_token_to_hex(const struct dmashare_token *token, char hex[33]);
int dmashare_token_from_hex(const char *hex, struct dmashare_token *token);

/* ---- Buffers of other processes' ------------------------------------------------------------- */

#define DMASHARE_IMPORT_CPU (-1)

/* Uses a token for a buffer. `node` is an open DRM node of the GPU that is to read it, or
 * DMASHARE_IMPORT_CPU for mappings only. */
int dmashare_import_buffer(struct dmashare_connection *connection,
                           const struct dmashare_token *token, int node,
                           struct dmashare_import **import);

/* Gives it back together with the last of its mappings, without waiting, or waiting for the broker:
 * both destroy the handle, also where the second fails: with -EBUSY while it has mappings or is in use
 * by another thread. */
int dmashare_import_destroy(struct dmashare_import *import);
int dmashare_import_release(struct dmashare_import *import);

uint64_t dmashare_import_id(struct dmashare_import *import);
/* The broker's id for the buffer: equal for all imports of it. */
uint64_t dmashare_import_buffer_id(struct dmashare_import *import);
int dmashare_import_is_lost(struct dmashare_import *import);
/* The device that it was made by, as a new handle; -ENOENT for a neutral buffer, which no loss takes. */
int dmashare_import_device(struct dmashare_import *import, struct dmashare_device **device);

int dmashare_import_layout(struct dmashare_import *import, struct dmashare_layout *layout);

/* Bytes of a plane's dma-buf. */
uint64_t dmashare_import_plane_size(struct dmashare_import *import, uint32_t plane);

/* 1 if CPU access needs DMA_BUF_IOCTL_SYNC, which dmashare_mapping_begin() then issues, else 0. */
int dmashare_import_needs_cpu_sync(struct dmashare_import *import);

/* Lends a plane's dma-buf to `with`, for a PRIME or EGL import, and returns what that returns; or a
 * negative errno without calling it. A loss meanwhile leaves the descriptor open until `with` returns,
 * so that should not wait for anything. Not valid after that. */
int dmashare_import_with_plane_fd(struct dmashare_import *import, uint32_t plane,
                                  int (*with)(int fd, void *data), void *data);

/* A plane's dma-buf as a descriptor of the caller's own, or a negative errno. No revocation closes it:
 * close it when the device is lost, before the loss is acknowledged. */
int dmashare_import_dup_plane_fd(struct dmashare_import *import, uint32_t plane);

enum dmashare_protection {
	DMASHARE_READ_ONLY = 0,
	DMASHARE_READ_WRITE = 1,
};

/* Maps a plane's whole dma-buf, or `size` bytes of it from `offset`, a multiple of the page size. */
int dmashare_import_map(struct dmashare_import *import, uint32_t plane,
                        enum dmashare_protection protection, struct dmashare_mapping **mapping);
int dmashare_import_map_range(struct dmashare_import *import, uint32_t plane, uint64_t offset,
                              size_t size, enum dmashare_protection protection,
                              struct dmashare_mapping **mapping);

/* 1: the library is to copy it into a neutral buffer by itself when somebody asks for the device: the
 * listener's `removal_requested` then hands the copy over. For buffers whose fences have ended. 0, as
 * at first: not. */
int dmashare_import_preserve_on_request(struct dmashare_import *import, int preserve);

/* ---- Neutral buffers ------------------------------------------------------------------------- */

/* Makes a buffer of the broker's own memory, linear, all zero, for any device that can import it and
 * for the CPU. No unplug takes it, nor the end of the broker. */
int dmashare_allocate(struct dmashare_connection *connection, uint32_t width, uint32_t height,
                      uint32_t fourcc, struct dmashare_neutral **buffer);

/* Copies a buffer into a new neutral one of the same size and format, by the CPU, so that the last
 * frame stays when its device goes. Its fences are to have ended. -ENODEV where the device was lost
 * meanwhile: there is no copy then, not a torn one; -EINVAL for a buffer that is not linear. */
int dmashare_preserve(struct dmashare_import *import, struct dmashare_neutral **copy);

/* As dmashare_import_destroy() and _release(). Imports outlive it. */
int dmashare_neutral_destroy(struct dmashare_neutral *buffer);
int dmashare_neutral_release(struct dmashare_neutral *buffer);

/* As the functions of an import. */
uint64_t dmashare_neutral_id(struct dmashare_neutral *buffer);
int dmashare_neutral_layout(struct dmashare_neutral *buffer, struct dmashare_layout *layout);
uint64_t dmashare_neutral_plane_size(struct dmashare_neutral *buffer, uint32_t plane);
int dmashare_neutral_needs_cpu_sync(struct dmashare_neutral *buffer);
int dmashare_neutral_with_plane_fd(struct dmashare_neutral *buffer, uint32_t plane,
                                   int (*with)(int fd, void *data), void *data);
int dmashare_neutral_dup_plane_fd(struct dmashare_neutral *buffer, uint32_t plane);
int dmashare_neutral_map(struct dmashare_neutral *buffer, uint32_t plane,
                         enum dmashare_protection protection, struct dmashare_mapping **mapping);
int dmashare_neutral_map_range(struct dmashare_neutral *buffer, uint32_t plane, uint64_t offset,
                               size_t size, enum dmashare_protection protection,
                               struct dmashare_mapping **mapping);

/* ---- Memory of an imported or a neutral buffer ----------------------------------------------- */

/* The first byte, valid until the mapping is destroyed, lost device or not: after the loss it shows
 * zeros. Others write there at any time. */
void *dmashare_mapping_pointer(struct dmashare_mapping *mapping);
/* Bytes mapped. */
size_t dmashare_mapping_size(struct dmashare_mapping *mapping);

enum dmashare_access {
	DMASHARE_ACCESS_READ = 1,
	DMASHARE_ACCESS_WRITE = 2,
	DMASHARE_ACCESS_READ_WRITE = 3,
};

/* Brackets an access by CPU. What was read is good once the end, told the same access, has returned
 * 0; -ENODEV (or the cause's errno) says that the device was lost, and it is worth nothing. Where the
 * exporter's memory is coherent each is a few loads; else DMA_BUF_IOCTL_SYNC too, which waits for the
 * buffer's implicit fences, and gives its errno. A begin that failed has no end. */
int dmashare_mapping_begin(struct dmashare_mapping *mapping, enum dmashare_access access);
int dmashare_mapping_end(struct dmashare_mapping *mapping, enum dmashare_access access);

/* The same end, and asks the kernel too, by an ioctl on `node`, an open DRM node of the *exporting*
 * device: that knows of a loss from the first instant, before any event. */
int dmashare_mapping_end_checked(struct dmashare_mapping *mapping, enum dmashare_access access,
                                 int node);

/* Copies out of the mapping, and into it; -EINVAL for what lies not inside, or is read-only. What
 * others write meanwhile may be torn. */
int dmashare_mapping_copy_out(struct dmashare_mapping *mapping, size_t offset, void *to, size_t size);
int dmashare_mapping_copy_in(struct dmashare_mapping *mapping, size_t offset, const void *from,
                             size_t size);

/* Installs a handler of SIGBUS, for good, for drivers that fault before anybody has told of the removal: a
 * fault inside a mapping of an import that is made from here on is answered by zero pages in place, and
 * begin and end then say -ENODEV. Every other SIGBUS goes to whom it went before. For programs, not for
 * libraries: a process has one handler. Call it once, before other threads fault, and after handlers that
 * are to be handed on to; who replaces it later is to hand on. */
int dmashare_install_sigbus_guard(void);

/* 1 if it shows zeros for good, else 0. */
int dmashare_mapping_is_revoked(struct dmashare_mapping *mapping);

/* enum dmashare_protection, or a negative errno. */
int dmashare_mapping_protection(struct dmashare_mapping *mapping);

/* Unmaps the memory. */
int dmashare_mapping_destroy(struct dmashare_mapping *mapping);

/* ---- Fences ---------------------------------------------------------------------------------- */

enum dmashare_policy {
	DMASHARE_POLICY_AUTO = 0, /* guarded if its device can be pulled */
	DMASHARE_POLICY_GUARD = 1,
	DMASHARE_POLICY_PASS = 2, /* the source itself is passed on, and watched */
};

struct dmashare_fence_options {
	uint32_t version;    /* DMASHARE_FENCE_OPTIONS_VERSION */
	uint32_t policy;     /* enum dmashare_policy */
	int64_t deadline_ns; /* after how long it ends with ETIMEDOUT; 0: the broker's default */
};
#define DMASHARE_FENCE_OPTIONS_VERSION 1

/* Makes a fence known to the broker: `node` is an open DRM node of the device that signals it.
 * `options` may be NULL: DMASHARE_POLICY_AUTO, and the broker's deadline. */
int dmashare_share_fence(struct dmashare_connection *connection, int node, int sync_file,
                         const struct dmashare_fence_options *options,
                         struct dmashare_shared_fence **fence);

/* The same and dmashare_shared_fence_grant() in one, as dmashare_export_buffer_granted(). */
int dmashare_share_fence_granted(struct dmashare_connection *connection, int node, int sync_file,
                                 const struct dmashare_fence_options *options,
                                 const struct dmashare_grant *grant,
                                 struct dmashare_shared_fence **fence,
                                 struct dmashare_token *token);

/* As dmashare_export_destroy() and _release(). Importers keep theirs. */
int dmashare_shared_fence_destroy(struct dmashare_shared_fence *fence);
int dmashare_shared_fence_release(struct dmashare_shared_fence *fence);

uint64_t dmashare_shared_fence_id(struct dmashare_shared_fence *fence);
int dmashare_shared_fence_is_lost(struct dmashare_shared_fence *fence);
int dmashare_shared_fence_device(struct dmashare_shared_fence *fence,
                                 struct dmashare_device **device);

/* What importers get: enum dmashare_guard, or a negative errno. */
int dmashare_shared_fence_guard(struct dmashare_shared_fence *fence);

enum dmashare_state {
	DMASHARE_PENDING = 0,
	DMASHARE_OK = 1,        /* its work is done */
	DMASHARE_FAILED = 2,    /* it ended, and its work is not done */
	DMASHARE_UNKNOWN = 3,   /* of a point: nobody has promised it */
	DMASHARE_PROMISED = 4,  /* of a point: it will come */
	DMASHARE_FORGOTTEN = 5, /* of a point: it ended so long ago that the broker has forgotten how */
};

/* How a fence, or a point of a timeline, stands. */
struct dmashare_status {
	uint32_t state; /* enum dmashare_state */
	uint32_t cause; /* enum dmashare_cause, if it failed */
	int32_t error;  /* the negative errno, if it failed: -ENODEV for a lost device, -ETIMEDOUT for
	                   a passed deadline, -EIO for a wedged device, -EOWNERDEAD for a promise that
	                   nobody is left to keep, the exporter's own; else 0 */
	uint32_t reserved;
	int64_t at_ns; /* when it ended; 0 if that is not known */
};

/* Asks the broker how it stands. Where it has failed this succeeds; the sentence is then in
 * dmashare_last_error(). */
int dmashare_shared_fence_query(struct dmashare_shared_fence *fence, struct dmashare_status *status);

/* Uses a token for a fence. */
int dmashare_import_fence(struct dmashare_connection *connection,
                          const struct dmashare_token *token, struct dmashare_fence **fence);

int dmashare_fence_destroy(struct dmashare_fence *fence);
int dmashare_fence_release(struct dmashare_fence *fence);

uint64_t dmashare_fence_id(struct dmashare_fence *fence);
int dmashare_fence_is_lost(struct dmashare_fence *fence);
int dmashare_fence_device(struct dmashare_fence *fence, struct dmashare_device **device);
int dmashare_fence_guard(struct dmashare_fence *fence);

/* *fd is readable when the fence has ended, and always ends; it is a sync_file, for IN_FENCE_FD and the
 * like. -1 if it had ended when it was imported: then there is nothing to wait for. Borrowed, until
 * the handle is destroyed; the caller's own; the caller's own, and the handle is destroyed. */
int dmashare_fence_fd(struct dmashare_fence *fence, int *fd);
int dmashare_fence_dup_fd(struct dmashare_fence *fence, int *fd);
int dmashare_fence_take_fd(struct dmashare_fence *fence, int *fd);

/* How it stands, without waiting; and after waiting until it ends or the time is up. Return 0 when
 * that is known, also where it has failed: the sentence is then in dmashare_last_error(). The
 * kernel's own waits hide errors. A source that was passed on (DMASHARE_GUARD_SOURCE) may never end
 * after the loss of its device: wait for it with a timeout, then the loss is told. */
int dmashare_fence_status(struct dmashare_fence *fence, struct dmashare_status *status);
int dmashare_fence_wait(struct dmashare_fence *fence, int64_t timeout_ns,
                        struct dmashare_status *status);

/* Puts a fence into the reservation object of each of a buffer's planes, for those who know implicit
 * synchronisation only. `access` is what the fence's work does to the buffer. A fence that has ended
 * is not put anywhere. -EOPNOTSUPP where the kernel or the broker's guards cannot do it; -EINVAL for
 * two handles of different connections. */
int dmashare_import_attach(struct dmashare_import *buffer, struct dmashare_fence *fence,
                           enum dmashare_access access);
int dmashare_import_attach_shared(struct dmashare_import *buffer,
                                  struct dmashare_shared_fence *fence, enum dmashare_access access);
int dmashare_export_attach(struct dmashare_export *buffer, struct dmashare_fence *fence,
                           enum dmashare_access access);
int dmashare_export_attach_shared(struct dmashare_export *buffer,
                                  struct dmashare_shared_fence *fence, enum dmashare_access access);
int dmashare_neutral_attach(struct dmashare_neutral *buffer, struct dmashare_fence *fence,
                            enum dmashare_access access);
int dmashare_neutral_attach_shared(struct dmashare_neutral *buffer,
                                   struct dmashare_shared_fence *fence, enum dmashare_access access);

/* ---- Timelines ------------------------------------------------------------------------------- */

enum dmashare_direction {
	DMASHARE_ACQUIRE = 0, /* the maker promises and submits, importers wait */
	DMASHARE_RELEASE = 1, /* the maker promises and waits, importers submit */
};

/* Makes a drm_syncobj timeline whose points, numbers from 1 that only grow, all end, at the latest
 * when a device is lost: `node` is an open DRM node of it. DMASHARE_POLICY_PASS is for devices that
 * cannot be pulled. -EOPNOTSUPP where no device has timeline syncobjs. */
int dmashare_create_timeline(struct dmashare_connection *connection, int node,
                             enum dmashare_policy policy, enum dmashare_direction direction,
                             struct dmashare_timeline **timeline);

/* Uses a token for a timeline. */
int dmashare_import_timeline(struct dmashare_connection *connection,
                             const struct dmashare_token *token,
                             struct dmashare_timeline **timeline);

int dmashare_timeline_destroy(struct dmashare_timeline *timeline);
int dmashare_timeline_release(struct dmashare_timeline *timeline);

uint64_t dmashare_timeline_id(struct dmashare_timeline *timeline);
int dmashare_timeline_is_lost(struct dmashare_timeline *timeline);
int dmashare_timeline_device(struct dmashare_timeline *timeline, struct dmashare_device **device);
/* enum dmashare_direction, or a negative errno. */
int dmashare_timeline_direction(struct dmashare_timeline *timeline);
/* What is put to a point while its source is pending (enum dmashare_guard), or a negative errno. For
 * DMASHARE_GUARD_NONE a point can be given to a GPU only once it is over. */
int dmashare_timeline_guard(struct dmashare_timeline *timeline);
/* The last point that was promised when it was imported; 0 for none, and for its maker. */
uint64_t dmashare_timeline_promised(struct dmashare_timeline *timeline);

/* Says that all points up to this one will come; the maker's to say. */
int dmashare_timeline_promise(struct dmashare_timeline *timeline, uint64_t point);

/* Hands over the source of a point: `sync_file` ends when its work is done, `node` is an open DRM node
 * of the device that signals it. After `deadline_ns` the point ends with ETIMEDOUT; 0 is the broker's
 * default. When this returns, the point can be given to a GPU. */
int dmashare_timeline_submit(struct dmashare_timeline *timeline, uint64_t point, int node,
                             int sync_file, int64_t deadline_ns);
/* The same for a point whose work is done. */
int dmashare_timeline_submit_done(struct dmashare_timeline *timeline, uint64_t point);

/* Asks the broker how a point stands. */
int dmashare_timeline_query(struct dmashare_timeline *timeline, uint64_t point,
                            struct dmashare_status *status);

/* Waits until a point is over: 0 if its work is done; -ETIME if it is not over in time; else how it
 * failed, as dmashare_status.error says it, with the cause in dmashare_last_error_info(); -ENODATA
 * if the broker has forgotten. */
int dmashare_timeline_wait(struct dmashare_timeline *timeline, uint64_t point, int64_t timeout_ns);

/* The drm_syncobj, for DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE and for Vulkan's opaque fds; and what polls as
 * POLLHUP once the timeline is lost or the broker is gone (not to be read). Borrowed, until the handle
 * is destroyed. */
int dmashare_timeline_syncobj_fd(struct dmashare_timeline *timeline);
int dmashare_timeline_lost_fd(struct dmashare_timeline *timeline);

/* A new eventfd, the caller's, or a negative errno: readable once the point is signalled, well or not.
 * `drm` is an open DRM node of any device with timeline syncobjs. Keep the timeline meanwhile. */
int dmashare_timeline_new_eventfd(struct dmashare_timeline *timeline, int drm, uint64_t point);

/* ---- A lost device --------------------------------------------------------------------------- */

struct dmashare_lost_info {
	uint32_t version; /* in: DMASHARE_LOST_INFO_VERSION */
	uint32_t cause;   /* enum dmashare_cause */
	uint64_t device;
	int64_t at_ns;
	uint32_t buffers; /* of this process's exports that are lost with it */
	uint32_t fences;  /* of this process's that ended with an error */
	uint32_t imports; /* that were taken back: dmashare_lost_import() */
	uint32_t failed;  /* of them, whose mappings could not be replaced: dmashare_lost_failed() */
	uint32_t awaited; /* 1: the broker waits for the acknowledgement */
};
#define DMASHARE_LOST_INFO_VERSION 1

int dmashare_lost_info(struct dmashare_lost *lost, struct dmashare_lost_info *info);

/* The id of an import that was taken back; 0 past the last. */
uint64_t dmashare_lost_import(struct dmashare_lost *lost, size_t index);

/* The id of an import whose mappings still show the device's memory, and why (a negative errno). */
int dmashare_lost_failed(struct dmashare_lost *lost, size_t index, uint64_t *import, int *error);

/* Makes the handle that a callback was given the caller's: it is not acknowledged when the callback
 * returns, but by one of the next two. The broker waits for that, for a while, and then names this
 * process as one that holds on to a dead device, and may disconnect it. */
int dmashare_lost_take(struct dmashare_lost *lost);

/* Tells the broker that nothing of the device is held any more, and waits for its answer; destroys the
 * handle, also where this fails. -ENOMEM where a mapping cannot be replaced: then the broker is not
 * told what is not true. */
int dmashare_lost_acknowledge(struct dmashare_lost *lost);
/* The same without waiting. */
int dmashare_lost_destroy(struct dmashare_lost *lost);

#ifdef __cplusplus
}
#endif

#endif
