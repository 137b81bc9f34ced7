#include <nanobind/nanobind.h>
namespace octavo {
void bind_operations(nanobind::module_& module) { (void)module; }
}
