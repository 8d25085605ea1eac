// The CUDA runtime and what emulator.py calls; launches: the threads of one block after another, each on a fiber, with
// barriers and exchanges within a warp.
#include "runtime.h"

#include <deque>
#include <numeric>
#include <random>
#include <set>
#include <stdexcept>

// Saves the registers a function must keep, and continues on another stack.
extern "C" void simt_switch(void** save, void* next);
asm(R"(.text
simt_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");

namespace simt {

dim3 threadIdx, blockIdx, blockDim, gridDim;
Fiber* me;
Launch launch;
uint32_t epoch, launch_epoch, block_epoch;

namespace {

Fiber fibers[kMaxThreads];
void* scheduler_stack;
std::string error, calls;
std::set<const void*> allowed;  // kernels for which this call has set a limit of dynamic shared memory
// The least limit that any call has set for a kernel on a card. It lasts, and holds for all calls: one of another
// thread may come between this one's cudaFuncSetAttribute and its launch.
std::map<std::pair<const void*, size_t>, size_t> dynamic_limits;
std::mt19937_64 generator;
std::deque<Fiber*> ready;
unsigned threads, alive, at_barrier, barrier_sum, last_sum;
Place barrier_place;
unsigned alive_lanes[kMaxThreads / kWarp];

void to_scheduler() { simt_switch(&me->stack_pointer, scheduler_stack); }

void for_lanes(unsigned lanes, const auto& function) {
  for (; lanes; lanes &= lanes - 1) function(fibers[me->warp * kWarp + std::countr_zero(lanes)]);
}

// The lanes of the warp that wait in an exchange whose mask overlaps `mask`.
unsigned waiting_lanes(unsigned mask) {
  unsigned lanes = 0;
  for_lanes(alive_lanes[me->warp], [&](const Fiber& f) { lanes |= unsigned(f.what && f.mask & mask) << f.lane; });
  return lanes;
}

// If every lane of `mask` that has not left the kernel has arrived.
void try_exchange(unsigned mask) {
  const unsigned gave = waiting_lanes(mask);
  if (gave != (mask & alive_lanes[me->warp])) return;
  const Fiber& first = fibers[me->warp * kWarp + std::countr_zero(gave)];
  const bool orders_memory = kChecked && !std::strcmp(first.what, "__syncwarp");
  std::vector<char> all(kWarp * first.bytes);
  uint32_t clock[kWarp] = {};
  for_lanes(gave, [&](Fiber& f) {
    std::memcpy(all.data() + f.lane * f.bytes, f.given, f.bytes);
    ++f.clock[f.lane];
    for (unsigned l = 0; orders_memory && l < kWarp; ++l) clock[l] = std::max(clock[l], f.clock[l]);
  });
  for_lanes(gave, [&](Fiber& f) {
    std::memcpy(f.taken, all.data(), all.size());
    if (orders_memory) std::copy(clock, clock + kWarp, f.clock);
    f.gave = gave, f.what = nullptr;
    ready.push_back(&f);
  });
}

void enter_kernel() {
  launch.body(launch.arguments);
  --alive;
  alive_lanes[me->warp] &= ~(1u << me->lane);
  if (at_barrier) fail("divergent barrier: some threads wait at ", barrier_place, ", others have left the kernel");
  for_lanes(waiting_lanes(~0u), [](const Fiber& f) { try_exchange(f.mask); });  // for a lane that is gone
  to_scheduler();
}

void start(Fiber& f, unsigned id) {
  const auto [x, y, z] = launch.block;
  char* stack = f.stack ? f.stack : static_cast<char*>(std::aligned_alloc(4096, kStackBytes));
  f = Fiber{{id % x, id / x % y, id / (x * y)}, stack, id, id % kWarp, id / kWarp};
  alive_lanes[f.warp] |= 1u << f.lane;
  // Tops are staggered, so that the stacks do not share one set of the cache. The entry has no caller: its return
  // address is null; the switch pops six registers.
  void** top = reinterpret_cast<void**>(stack + kStackBytes - 64 - id % 63 * 192);
  std::fill(top - 8, top, nullptr);
  top[-2] = reinterpret_cast<void*>(enter_kernel);
  f.stack_pointer = top - 8;
  ready.push_back(&f);
}

void run_block(dim3 block) {
  blockIdx = block;
  block_epoch = ++epoch;
  clear_shared_memory();
  ready.clear();
  std::fill(std::begin(alive_lanes), std::end(alive_lanes), 0);
  alive = threads, at_barrier = 0;
  for (unsigned i = 0; i < threads; ++i) start(fibers[i], i);
  while (error.empty() && !ready.empty()) {
    size_t next = config.order == Order::kForward ? 0 : ready.size() - 1;
    if (config.order == Order::kRandom) next = generator() % ready.size();
    me = ready[next];
    threadIdx = me->thread;
    ready.erase(ready.begin() + next);
    simt_switch(&scheduler_stack, me->stack_pointer);
  }
  me = nullptr;
  close_requests(false);
  if (!error.empty()) fail(error);
  for (const Fiber* f = fibers; f < fibers + threads; ++f)
    if (alive_lanes[f->warp] >> f->lane & 1)
      fail("deadlock: thread ", f->id, " waits at ", f->place, " [", launch.name, "]");
  if (!clear_shared_memory()) fail("shared memory was written out of bounds [", launch.name, "]");
}

// The rules of the runtime and of the card.
void check_launch() {
  const auto& [kernel, name, grid, block, shared, stream, body, arguments] = launch;
  const auto refuse = [&](const auto&... why) { fail("invalid launch of ", name, ": ", why...); };
  const uint64_t size = uint64_t(block.x) * block.y * block.z;
  if (size == 0 || size > kMaxThreads || block.z > 64) refuse(size, " threads in a block");
  if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) refuse("grid ", grid);
  if (shared > (allowed.contains(kernel) ? dynamic_limits.at({kernel, config.shared_limit}) : kDefaultShared))
    refuse(shared, " bytes of dynamic shared memory: more than 48 KB not allowed in this call, or not in another one");
  if (config.stream && stream != config.stream) refuse("not on the stream of the caller");
}

}  // namespace

void fail(const std::string& what) {
  if (!me) throw std::runtime_error(what);
  if (error.empty()) error = text(what, " [", launch.name, " block", blockIdx, " thread", me->thread, "]");
  to_scheduler();
  std::abort();  // never scheduled again
}

int __syncthreads_count(int predicate, Place place) {
  me->place = place;
  if (alive != threads) fail("divergent barrier: reached at ", place, " after other threads left the kernel");
  if (at_barrier++ == 0) barrier_place = place, barrier_sum = 0;
  if (place.line() != barrier_place.line() || std::strcmp(place.file_name(), barrier_place.file_name()))
    fail("divergent barrier: threads of one block wait at ", barrier_place, " and at ", place);
  barrier_sum += predicate != 0;
  if (at_barrier == threads) {
    ++epoch, at_barrier = 0, last_sum = barrier_sum;
    close_requests(true);
    for (Fiber* f = fibers; f < fibers + threads; ++f) ready.push_back(f);
  }
  to_scheduler();
  return last_sum;  // no thread reaches the end of the next barrier before all have left this one
}

unsigned exchange(const char* what, unsigned mask, const void* given, size_t bytes, void* all, unsigned needed,
                  Place at) {
  if (!(mask >> me->lane & 1)) fail("the mask of ", what, " at ", at, " lacks the caller");
  for_lanes(waiting_lanes(mask), [&](const Fiber& f) {
    if (f.mask != mask || f.bytes != bytes || std::strcmp(f.what, what))
      fail("lanes of a warp wait in different collectives: ", f.what, " at ", f.place, " and ", what, " at ", at);
  });
  me->place = at, me->what = what, me->mask = mask, me->given = given, me->bytes = bytes, me->taken = all;
  try_exchange(mask);
  to_scheduler();
  if (needed & ~me->gave) fail(what, " at ", at, " reads a lane outside the mask or gone");
  return me->gave;
}

int lane() { return me->lane; }
unsigned __activemask() { return alive_lanes[me->warp]; }

void run(const Launch& what) {
  launch = what;
  const auto [x, y, z] = launch.grid;
  gridDim = launch.grid, blockDim = launch.block;
  threads = launch.block.x * launch.block.y * launch.block.z;
  record(text("launch|", launch.name, "|", launch.grid, "|", launch.block, "|", launch.shared));
  check_launch();
  generator.seed(config.seed);
  launch_epoch = ++epoch;
  std::vector<uint64_t> order(uint64_t(x) * y * z);
  std::iota(order.begin(), order.end(), 0);
  if (config.order == Order::kReverse) std::reverse(order.begin(), order.end());
  if (config.order == Order::kRandom) std::shuffle(order.begin(), order.end(), generator);
  for (const uint64_t b : order) run_block({unsigned(b % x), unsigned(b / x % y), unsigned(b / x / y)});
}

void record(const std::string& call) { calls += call + "\n"; }
void begin_call() {
  calls.clear(), error.clear();
  allowed.clear();  // attributes belong to one device of several: a launch function sets what it needs each time
}
size_t allowed_shared() {
  return allowed.contains(launch.kernel) ? dynamic_limits.at({launch.kernel, config.shared_limit}) : 0;
}

void forbidden(const char* function) {
  record(function);
  fail(function, " is forbidden: launch functions neither allocate nor wait");
}

extern "C" SIMT_EXPORT const char* simt_calls() { return calls.c_str(); }

}  // namespace simt

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  simt::record(simt::text("cudaFuncSetAttribute|", attribute, "|", value));
  if (value < 0 || size_t(value) > simt::config.shared_limit) return cudaErrorInvalidValue;
  simt::allowed.insert(kernel);
  const auto [limit, is_new] = simt::dynamic_limits.try_emplace({kernel, simt::config.shared_limit}, value);
  limit->second = std::min<size_t>(limit->second, value);
  return cudaSuccess;
}
