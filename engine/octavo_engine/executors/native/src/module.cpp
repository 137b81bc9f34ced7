// The Python module `_native`. Only this file and the bind_*.cpp files depend on Python.
#include <nanobind/nanobind.h>

namespace octavo {
void bind_matmul(nanobind::module_& module);
void bind_decoder(nanobind::module_& module);
void bind_operations(nanobind::module_& module);
}  // namespace octavo

NB_MODULE(_native, module) {
  module.attr("INTERFACE") = OCTAVO_INTERFACE;
  octavo::bind_matmul(module);
  octavo::bind_decoder(module);
  octavo::bind_operations(module);
}
