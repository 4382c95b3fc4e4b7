// Epochs of readers: memory that was unlinked is used again when every reader that could hold it has finished.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>

namespace monolith {

// Any number of threads enter, one at a time advances. A reader writes its epoch into a slot before its first look-up,
// by an instruction that is a full fence; the writer unlinks, advances, and then reads the slots.
class ReaderEpochs {
  public:
    // A stay of one reader; what is linked at its start stays readable until its end.
    class Stay {
      public:
        explicit Stay(std::atomic<uint64_t>& slot) : slot_(&slot) {}
        Stay(const Stay&) = delete;
        Stay& operator=(const Stay&) = delete;
        ~Stay() { slot_->store(kFree, std::memory_order_release); }

      private:
        std::atomic<uint64_t>* slot_;
    };

    // Waits only while kSlots other readers are inside.
    Stay enter() const {
        for (size_t at = first_slot();; at = (at + 1) % kSlots) {
            uint64_t expected = kFree;
            if (slots_[at].epoch.load(std::memory_order_relaxed) == kFree &&
                slots_[at].epoch.compare_exchange_strong(expected, epoch_.load()))
                return Stay(slots_[at].epoch);
            if (at + 1 == kSlots) std::this_thread::yield();
        }
    }

    // Return the tag of all that was unlinked before this call.
    uint64_t advance() { return epoch_.fetch_add(1); }
    // Return the least tag that a reader may still hold; smaller ones are free.
    uint64_t oldest() const {
        uint64_t least = epoch_.load();
        for (size_t at = 0; at < kSlots; ++at) {
            const uint64_t epoch = slots_[at].epoch.load();
            if (epoch != kFree && epoch < least) least = epoch;
        }
        return least;
    }

  private:
    static constexpr uint64_t kFree = 0;
    static constexpr size_t kSlots = 1024;  // most threads of a replica's gRPC server

    static size_t first_slot() {
        static std::atomic<uint32_t> num_threads{0};
        thread_local const size_t slot = num_threads.fetch_add(1, std::memory_order_relaxed) % kSlots;
        return slot;
    }

    struct alignas(64) Slot {
        std::atomic<uint64_t> epoch{kFree};
    };
    std::unique_ptr<Slot[]> slots_{new Slot[kSlots]};
    std::atomic<uint64_t> epoch_{1};
};

}  // namespace monolith
