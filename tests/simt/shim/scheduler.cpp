// Runs the threads of one block after another, each on a fiber: barriers, exchanges within a warp, launches.
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <random>
#include <stdexcept>
#include <utility>

#include "runtime.h"

// Saves the registers a function must keep, and continues on another stack.
extern "C" void simt_switch(void** save, void* next);
asm(R"(
.text
.hidden simt_switch
.globl simt_switch
simt_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");

namespace simt {

const Indices* running;
dim3 block_size, grid_size;
Config config;
Fiber* me;
Launch launch;
uint32_t epoch, launch_epoch, block_epoch;

namespace {

Fiber fibers[kMaxThreads];
void (*body)(void*);
void* arguments;
void* scheduler_stack;
std::string error;
std::mt19937_64 generator;
std::vector<Fiber*> ready;
unsigned threads, alive, at_barrier;
int barrier_sum;
Place barrier_place;
unsigned alive_lanes[kMaxThreads / kWarp];

std::string text(uint3 v) {
  return "(" + std::to_string(v.x) + "," + std::to_string(v.y) + "," + std::to_string(v.z) + ")";
}

void to_scheduler() { simt_switch(&me->stack_pointer, scheduler_stack); }

void wake(Fiber& fiber) {
  fiber.state = State::kReady;
  ready.push_back(&fiber);
}

// The fibers of the warp that wait in an exchange whose mask overlaps `mask`.
unsigned waiting_lanes(unsigned mask) {
  unsigned lanes = 0;
  for (const Fiber *f = fibers + me->warp * kWarp, *end = f + kWarp; f < end; ++f)
    if (alive_lanes[me->warp] >> f->lane & 1 && f->state == State::kAtExchange && f->mask & mask)
      lanes |= 1u << f->lane;
  return lanes;
}

void for_lanes(unsigned lanes, const auto& function) {
  for (; lanes; lanes &= lanes - 1) function(fibers[me->warp * kWarp + std::countr_zero(lanes)]);
}

// If every lane of `mask` that has not left the kernel has arrived.
void try_exchange(unsigned mask) {
  Lanes all{waiting_lanes(mask), {}};
  if (all.mask != (mask & alive_lanes[me->warp])) return;
  const Fiber& first = fibers[me->warp * kWarp + std::countr_zero(all.mask)];
  const bool orders_memory = kChecked && !std::strcmp(first.what, "__syncwarp");
  uint32_t clock[kWarp] = {};
  for_lanes(all.mask, [&](Fiber& f) {
    all.value[f.lane] = f.value;
    ++f.clock[f.lane];
    for (unsigned l = 0; orders_memory && l < kWarp; ++l) clock[l] = std::max(clock[l], f.clock[l]);
  });
  for_lanes(all.mask, [&](Fiber& f) {
    f.lanes = all;
    if (orders_memory) std::copy(clock, clock + kWarp, f.clock);
    wake(f);
  });
}

void enter_kernel() {
  body(arguments);
  me->state = State::kDone;
  --alive;
  alive_lanes[me->warp] &= ~(1u << me->lane);
  if (at_barrier)
    fail("divergent barrier: some threads wait at " + text(barrier_place) + ", others have left the kernel");
  for_lanes(waiting_lanes(~0u), [](const Fiber& f) {  // for a lane that is gone
    if (f.state == State::kAtExchange) try_exchange(f.mask);
  });
  to_scheduler();
}

void start(Fiber& f, unsigned id, uint3 block) {
  const auto [x, y, z] = block_size;
  f.thread = {id % x, id / x % y, id / (x * y)};
  f.block = block;
  f.id = id, f.lane = id % kWarp, f.warp = id / kWarp;
  f.muted = false;
  f.copies.clear(), f.groups.clear();
  std::fill(f.clock, f.clock + kWarp, 0);
  alive_lanes[f.warp] |= 1u << f.lane;
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  if (!f.stack) f.stack = static_cast<char*>(mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, kFlags, -1, 0));
  // Tops are staggered, so that the stacks do not share one set of the cache. The entry has no caller: its return
  // address is null; the switch pops six registers.
  void** top = reinterpret_cast<void**>(f.stack + kStackBytes - 64 - id % 63 * 192);
  std::fill(top - 8, top, nullptr);
  top[-2] = reinterpret_cast<void*>(enter_kernel);
  f.stack_pointer = top - 8;
  wake(f);
}

std::string deadlock() {
  std::string message = "deadlock:";
  for (const Fiber* f = fibers; f < fibers + threads && message.size() < 400; ++f)
    if (f->state != State::kDone) message += " thread " + std::to_string(f->id) + " waits at " + text(f->place) + ";";
  return message;
}

void run_block(uint3 block) {
  block_epoch = ++epoch;
  clear_shared_memory();
  ready.clear();
  std::fill(std::begin(alive_lanes), std::end(alive_lanes), 0);
  at_barrier = 0;
  alive = threads;
  for (unsigned i = 0; i < threads; ++i) start(fibers[i], i, block);
  for (size_t head = 0; error.empty() && head < ready.size(); ++head) {
    if (head == 1 << 16) ready.erase(ready.begin(), ready.begin() + head), head = 0;
    if (config.order == Order::kReverse) std::swap(ready[head], ready.back());
    if (config.order == Order::kRandom) std::swap(ready[head], ready[head + generator() % (ready.size() - head)]);
    running = me = ready[head];
    simt_switch(&scheduler_stack, me->stack_pointer);
  }
  me = nullptr;
  if (config.counting) close_requests(false);
  if (!error.empty()) throw std::runtime_error(std::exchange(error, {}));
  if (alive) fail(deadlock() + " [" + launch.name + "]");
  if (!redzones_intact()) fail("shared memory was written out of bounds" + (" [" + std::string(launch.name) + "]"));
}

// The rules of the runtime and of the card.
void check_launch() {
  const auto& [kernel, name, grid, block, shared, stream] = launch;
  const auto refuse = [&](const std::string& why) { fail(std::string("invalid launch of ") + name + ": " + why); };
  const uint64_t size = uint64_t(block.x) * block.y * block.z;
  if (size == 0 || size > kMaxThreads || block.z > 64) refuse(std::to_string(size) + " threads in a block");
  if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    refuse("grid " + text({grid.x, grid.y, grid.z}));
  if (shared > std::min(dynamic_shared_limit(kernel), config.shared_limit))
    refuse(std::to_string(shared) +
           " bytes of dynamic shared memory: more than the card has, or more than 48 KB "
           "without cudaFuncSetAttribute in this call");
  if (config.stream && stream != config.stream) refuse("not on the stream of the caller");
}

}  // namespace

std::string text(Place place) { return std::string(place.file) + ":" + std::to_string(place.line); }

void fail(const std::string& what) {
  if (!me) throw std::runtime_error(what);
  if (error.empty())
    error = what + " [" + launch.name + " block" + text(me->block) + " thread" + text(me->thread) + "]";
  to_scheduler();
  std::abort();  // never scheduled again
}

int barrier(int predicate, Place place) {
  me->place = place;
  if (alive != threads) fail("divergent barrier: reached at " + text(place) + " after other threads left the kernel");
  if (at_barrier++ == 0) barrier_place = place, barrier_sum = 0;
  if (place.line != barrier_place.line || std::strcmp(place.file, barrier_place.file))
    fail("divergent barrier: threads of one block wait at " + text(barrier_place) + " and at " + text(place));
  barrier_sum += predicate != 0;
  me->state = State::kAtBarrier;
  if (at_barrier == threads) {
    ++epoch;
    at_barrier = 0;
    if (config.counting) close_requests(true);
    for (Fiber* f = fibers; f < fibers + threads; ++f) f->value = barrier_sum, wake(*f);
  }
  to_scheduler();
  return int(me->value);
}

const Lanes& exchange(const char* what, unsigned mask, uint64_t value, Place place) {
  if (!(mask >> me->lane & 1)) fail("the mask of " + std::string(what) + " at " + text(place) + " lacks the caller");
  for_lanes(waiting_lanes(mask), [&](const Fiber& f) {
    if (f.mask != mask || std::strcmp(f.what, what))
      fail("lanes of a warp wait in different collectives: " + std::string(f.what) + " at " + text(f.place) + " and " +
           what + " at " + text(place));
  });
  me->place = place, me->what = what, me->mask = mask, me->value = value;
  me->state = State::kAtExchange;
  try_exchange(mask);
  to_scheduler();
  return me->lanes;
}

uint64_t exchange_with(int source, const char* what, unsigned mask, uint64_t value, Place place) {
  const Lanes& all = exchange(what, mask, value, place);
  if (!(all.mask >> source & 1))
    fail(what + (" at " + text(place)) + " reads lane " + std::to_string(source) + ", outside the mask or gone");
  return all.value[source];
}

void gather(const void* mine, size_t bytes, void* all, const char* file, int line) {
  const Lanes lanes = exchange("gather", ~0u, bits(mine), {file, line});
  if (lanes.mask != ~0u) fail("a whole warp must take part at " + text(Place{file, line}));
  for (unsigned l = 0; l < kWarp; ++l)
    std::memcpy(static_cast<char*>(all) + l * bytes, unbits<const void*>(lanes.value[l]), bytes);
  exchange("gather", ~0u, 0, {file, line});  // no lane leaves before all have copied
}

unsigned lane() { return me->lane; }
unsigned active_mask() { return alive_lanes[me->warp]; }

void run(const Launch& what, void (*with)(void*), void* on) {
  launch = what, body = with, arguments = on;
  const auto [x, y, z] = launch.grid;
  block_size = launch.block, grid_size = launch.grid;
  threads = block_size.x * block_size.y * block_size.z;
  record("launch|" + std::string(launch.name) + "|" + text({x, y, z}) + "|" +
         text({block_size.x, block_size.y, block_size.z}) + "|" + std::to_string(launch.shared));
  check_launch();
  generator.seed(config.seed);
  launch_epoch = ++epoch;
  std::vector<uint64_t> order(uint64_t(x) * y * z);
  std::iota(order.begin(), order.end(), 0);
  if (config.order == Order::kReverse) std::reverse(order.begin(), order.end());
  if (config.order == Order::kRandom) std::shuffle(order.begin(), order.end(), generator);
  for (const uint64_t b : order) run_block({unsigned(b % x), unsigned(b / x % y), unsigned(b / x / y)});
}

}  // namespace simt
