// The Python module iresnet_fast._C: what was built and which instruction set runs. The ops themselves are registered
// with torch by library.cpp and csrc/torch, when this library is loaded.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <sstream>
#include <string>
#include <vector>

#include "cpu/isa.h"

namespace py = pybind11;

namespace {

// "a,b" -> {"a", "b"}, "" -> {}
std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> items;
  std::istringstream stream(list);
  for (std::string item; std::getline(stream, item, ',');) items.push_back(item);
  return items;
}

py::dict build_info() {
  py::dict info;
  info["version"] = IRF_BUILD_VERSION;
  info["torch"] = IRF_BUILD_TORCH;
  info["python"] = PY_VERSION;
  info["compiler"] = IRF_BUILD_COMPILER;
  info["isas"] = split(IRF_BUILD_ISAS);
  info["cuda_archs"] = split(IRF_BUILD_CUDA_ARCHS);
#ifdef NDEBUG
  info["debug"] = false;
#else
  info["debug"] = true;
#endif
  return info;
}

std::vector<std::string> cpu_isas() {
  std::vector<std::string> names;
  for (int i = 0; i < irf::kIsaCount; ++i) {
    if (irf::isa_available(irf::Isa(i))) names.push_back(irf::isa_name(irf::Isa(i)));
  }
  return names;
}

void set_cpu_isa(const std::string& name) {
  std::string available;
  for (int i = 0; i < irf::kIsaCount; ++i) {
    const irf::Isa isa = irf::Isa(i);
    if (!irf::isa_available(isa)) continue;
    if (name == irf::isa_name(isa)) return irf::set_isa(isa);
    available += (available.empty() ? "" : ", ") + std::string(irf::isa_name(isa));
  }
  throw py::value_error("set_cpu_isa: name must be an instruction set of this CPU and build (" + available +
                        "), got '" + name + "'.");
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of iresnet_fast: build metadata and choice of the instruction set.";
  m.def("build_info", &build_info, "What the extension was built with, as a dict.");
  m.def("cpu_isa", [] { return irf::isa_name(irf::current_isa()); }, "Instruction set in use.");
  m.def("cpu_isas", &cpu_isas, "Instruction sets that were built and that this CPU can run, worst first.");
  m.def("cpu_isa_message", &irf::isa_message, "Why IRESNET_FAST_CPU_ISA was not honoured, or ''.");
  m.def("set_cpu_isa", &set_cpu_isa, py::arg("name"), "Use this instruction set from now on.");
  m.def("cuda_arch_list", [] { return split(IRF_BUILD_CUDA_ARCHS); }, "CUDA architectures built for.");
}
