// What the runtime and the memory of the emulator share: the fibers of the running block, texts.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <list>
#include <map>
#include <sstream>
#include <vector>

#include "python_api.h"
#include "simt.h"

namespace simt {

constexpr bool kChecked = SIMT_CHECKED;  // kernels are instrumented: every load and store reaches access()
constexpr size_t kStackBytes = 256 << 10, kDefaultShared = 48 << 10;  // what kernels get without an attribute
constexpr unsigned kMaxThreads = 1024, kWarp = 32;
constexpr int kPoison = 0xff;  // a NaN, or -1

enum class Order { kForward, kReverse, kRandom };
extern struct Config {
  Order order;
  uint64_t seed;
  size_t shared_limit;  // what the card allows a block
  bool counting;
  bool capturing;                      // into a graph: kernels run all the same, but nothing may wait
  cudaStream_t stream;                 // if set, the only stream that may be used
  cudaStreamCaptureMode capture_mode;  // of the calling thread
} config;

using Out = std::ostream&;
inline Out operator<<(Out out, Code code) { return out << "<" << reinterpret_cast<void*>(uintptr_t(code)) << ">"; }
inline Out operator<<(Out out, Access kind) { return out << (kind == Access::kRead ? "read" : "write"); }
inline Out operator<<(Out out, Place place) { return out << place.file_name() << ":" << place.line(); }
inline Out operator<<(Out out, dim3 v) { return out << "(" << v.x << "," << v.y << "," << v.z << ")"; }
template <class... P> std::string text(const P&... pieces) {
  std::ostringstream out;
  (out << ... << pieces);
  return out.str();
}
template <class... P> [[noreturn]] void fail(const P&... pieces) { fail(text(pieces...)); }

struct Fiber {
  dim3 thread;
  char* stack = nullptr;
  unsigned id = 0, lane = 0, warp = 0;
  void* stack_pointer = nullptr;
  Place place = {};            // where it waits
  const char* what = nullptr;  // for which exchange: of which lanes, what it gives and takes; which lanes gave
  unsigned mask = 0, gave = 0;
  size_t bytes = 0;
  const void* given = nullptr;
  void* taken = nullptr;
  uint32_t clock[kWarp] = {};  // per lane of the warp: how many of its __syncwarp are known to have happened
  std::list<std::pair<unsigned, std::function<void()>>> copies = {};  // not yet waited for, with their group
  unsigned groups = 0;                                                // committed so far
};
extern Fiber* me;  // null: the host runs
// Counts launches, blocks and barriers: accesses in different epochs of a block are ordered. And at the start of each.
extern uint32_t epoch, launch_epoch, block_epoch;

bool clear_shared_memory();                                     // whether its red zones were intact
void check_contents(const void* p, size_t bytes, Access kind);  // of device memory that the runtime itself uses
void close_requests(bool at_barrier);  // accesses before and after this point are different requests
size_t allowed_shared();               // dynamic, that the running kernel may have by cudaFuncSetAttribute; or 0
void begin_call();                     // forgets the log and which kernels were allowed more
void record(const std::string& call);
extern "C" void simt_add_buffer(const void* p, size_t bytes, const char* name, bool writable, bool initialised);
extern "C" void simt_remove_buffer(const void* p);

}  // namespace simt
