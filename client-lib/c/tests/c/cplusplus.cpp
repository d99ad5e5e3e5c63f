// The header as C++17 has it.
#include "machine.h"

#include <cerrno>
#include <memory>

struct destroy {
	void operator()(dmashare_connection *connection) const { dmashare_connection_destroy(connection); }
	void operator()(dmashare_neutral *buffer) const { dmashare_neutral_destroy(buffer); }
};
template <typename T> using handle = std::unique_ptr<T, destroy>;

static void handles_in_smart_pointers()
{
	dmashare_connection *connection = nullptr;
	dmashare_neutral *buffer = nullptr;

	OK(dmashare_connect_to(machine_socket(), nullptr, &connection));
	handle<dmashare_connection> owner(connection);
	OK(dmashare_allocate(connection, 16, 16, XR24, &buffer));
	handle<dmashare_neutral> owned(buffer);
	IS(dmashare_dispatch(connection, 0), 0);
	IS(dmashare_declare(connection, DMASHARE_LOSS_IGNORE, 1), 0);
}

int main()
{
	static const test tests[] = { TEST(handles_in_smart_pointers) };

	return run_tests("cplusplus", tests, 1);
}
