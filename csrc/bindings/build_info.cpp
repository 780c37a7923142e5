// SPDX-License-Identifier: Apache-2.0
// What this module was built from and what the machine offers.

#include <pybind11/pybind11.h>
#include <pybind11/typing.h>

#include <sstream>
#include <string>

#include "bindings/bindings.h"
#include "build_facts.h"
#include "via/device.h"

namespace via::python {
namespace {

namespace py = pybind11;
using Facts = py::typing::Dict<py::str, py::object>;

py::tuple split_list(const char* semicolon_list) {
  py::list items;
  std::istringstream stream(semicolon_list);
  for (std::string item; std::getline(stream, item, ';');) items.append(item);
  return py::tuple(items);
}

Facts build_info() {
  Facts info;
  info["version"] = VIA_VERSION;
  info["git_commit"] = VIA_GIT_COMMIT;
  info["cuda"] = bool(VIA_WITH_CUDA);
  info["cuda_architectures"] = split_list(VIA_CUDA_ARCHITECTURES);
  info["cuda_version"] = VIA_WITH_CUDA ? py::object(py::str(VIA_CUDA_VERSION)) : py::none();
  info["compiler"] = VIA_COMPILER;
  info["cpu_isa"] = cpu::cpu_isa();
  info["cpu_isas"] = split_list(VIA_CPU_ISAS);
  return info;
}

Facts device_info(int index) {
  DeviceInfo device;
  {
    const py::gil_scoped_release release;
    device = cuda_device_info(index);
  }
  Facts info;
  info["name"] = device.name;
  info["compute_capability"] = device.compute_capability;
  info["num_multiprocessors"] = device.num_multiprocessors;
  info["memory_bytes"] = device.memory_bytes;
  info["image_architecture"] = device.image_architecture;
  return info;
}

}  // namespace

void bind_build_info(py::module_& m) {
  m.def("build_info", &build_info, "Facts of this build.");
  m.def("device_count", &cuda_device_count, "Number of visible GPUs, 0 without a driver.");
  m.def("device_info", &device_info, py::arg("index"),
        "Properties of one GPU; runs a small checked kernel there.");
}

}  // namespace via::python
