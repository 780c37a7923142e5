// SPDX-License-Identifier: Apache-2.0
// mbarriers, and an engine that completes bulk copies at random moments in random order.

#include <cstring>
#include <unordered_map>

#include "runtime/internal.h"

namespace via::simt {
namespace {

// Lies in the eight bytes that the kernel gives to the mbarrier.
struct Word {
  std::uint16_t magic, arrivals, pending;
  std::int16_t phase;
};
static_assert(sizeof(Word) == sizeof(unsigned long long));
constexpr std::uint16_t kMagic = 0x3ba7;

struct BulkCopy {
  char* shared;
  const char* global;
  unsigned bytes;
  void* barrier;
  unsigned owner;
  Site site;
};

struct Engine {
  std::unordered_map<void*, std::int64_t> transactions;  // expected minus complete bytes
  std::unordered_map<void*, unsigned> unfenced;          // mbarrier -> thread that made it
  std::vector<BulkCopy> copies;
};

Engine& engine() {
  static auto* instance = new Engine;
  return *instance;
}

Word load(void* barrier, Site site) {
  Word word;
  std::memcpy(&word, barrier, sizeof(word));
  if (word.magic != kMagic) fail("mbarrier", site, "used before mbar_init");
  return word;
}

// Stores the word, after its phase has turned if nothing is missing.
void store(void* barrier, Word word) {
  if (word.pending == 0 && engine().transactions[barrier] == 0) {
    word.phase ^= 1;
    word.pending = word.arrivals;
  }
  note_progress();
  std::memcpy(barrier, &word, sizeof(word));
}

void order(unsigned thread, void* barrier, Order order, bool write, Site site) {
  if (race_detector() == nullptr) return;
  race_detector()->atomic_before(thread, barrier, sizeof(Word), order, write, site);
  race_detector()->atomic_after(thread, barrier, order, write);
}

RaceDetector::Copy as_race_copy(const BulkCopy& copy) {
  return {copy.shared, copy.bytes, copy.global, copy.bytes, true, copy.site};
}

void complete_one(std::size_t index) {
  std::vector<BulkCopy>& copies = engine().copies;
  const BulkCopy copy = copies[index];
  copies[index] = copies.back();
  copies.pop_back();
  poison(copy.shared, copy.bytes, false);
  std::memcpy(copy.shared, copy.global, copy.bytes);
  if (race_detector() != nullptr) race_detector()->copy_end(copy.owner, as_race_copy(copy));
  order(copy.owner, copy.barrier, kRelease, true, copy.site);
  engine().transactions[copy.barrier] -= copy.bytes;
  store(copy.barrier, load(copy.barrier, copy.site));
}

}  // namespace

void mbarrier_init(unsigned long long* barrier, unsigned arrivals, Site site) {
  const unsigned self = runtime().self->id;
  if (arrivals == 0 || arrivals > 0xffff) fail("mbarrier", site, "%u arrivals", arrivals);
  order(self, barrier, kRelease, true, site);
  const Word word = {kMagic, static_cast<std::uint16_t>(arrivals),
                     static_cast<std::uint16_t>(arrivals), 0};
  std::memcpy(barrier, &word, sizeof(word));
  engine().transactions[barrier] = 0;
  engine().unfenced[barrier] = self;
}

void mbarrier_fence_init() {
  auto& unfenced = engine().unfenced;
  for (auto it = unfenced.begin(); it != unfenced.end();) {
    it = it->second == runtime().self->id ? unfenced.erase(it) : std::next(it);
  }
}

void mbarrier_arrive(unsigned long long* barrier, unsigned transaction_bytes, Site site) {
  runtime().self->site = site;
  preemption_point(4);
  Word word = load(barrier, site);
  order(runtime().self->id, barrier, kRelease, true, site);
  if (word.pending == 0) {
    fail("mbarrier", site, "more arrivals than the expected %u", word.arrivals);
  }
  engine().transactions[barrier] += transaction_bytes;
  --word.pending;
  store(barrier, word);
}

bool mbarrier_try_wait(unsigned long long* barrier, unsigned parity, Site site) {
  Runtime& rt = runtime();
  rt.self->site = site;
  rt.self->waits_in = "mbarrier wait";
  preemption_point(4);
  std::vector<BulkCopy>& copies = engine().copies;
  if (!copies.empty() && random_below(3) == 0) {
    complete_one(random_below(static_cast<unsigned>(copies.size())));
  }
  const bool complete = (load(barrier, site).phase & 1) != static_cast<int>(parity & 1u);
  if (complete) order(rt.self->id, barrier, kAcquire, false, site);
  return complete;
}

void bulk_copy(void* shared, const void* global, unsigned bytes, unsigned long long* barrier,
               Site site) {
  runtime().self->site = site;
  const auto low_bits =
      reinterpret_cast<std::uintptr_t>(shared) | reinterpret_cast<std::uintptr_t>(global) | bytes;
  if (low_bits % 16 != 0) {
    fail("misaligned", site, "bulk copy of %u bytes from %p to %p", bytes, global, shared);
  }
  load(barrier, site);
  if (engine().unfenced.count(barrier) != 0) {
    fail("mbarrier", site, "no mbar_fence_init between mbar_init and this bulk copy");
  }
  const BulkCopy copy = {static_cast<char*>(shared),
                         static_cast<const char*>(global),
                         bytes,
                         barrier,
                         runtime().self->id,
                         site};
  if (race_detector() != nullptr) race_detector()->copy_begin(copy.owner, as_race_copy(copy));
  std::memset(shared, 0xff, bytes);
  poison(shared, bytes, true);
  engine().copies.push_back(copy);
  preemption_point(4);
}

void fence_proxy_async() {
  if (race_detector() != nullptr) race_detector()->proxy_fence(runtime().self->id);
}

void bulk_check_block_end(const Block& block) {
  const auto* begin = reinterpret_cast<const char*>(block.dynamic);
  for (const BulkCopy& copy : engine().copies) {
    const bool inside =
        begin != nullptr && copy.shared >= begin && copy.shared < begin + dynamic_room();
    if (inside) fail("bulk copy", copy.site, "the block ends while this copy is under way");
  }
}

void bulk_reset() { engine() = Engine{}; }

}  // namespace via::simt
