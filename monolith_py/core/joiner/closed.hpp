// Closed requests whose impression is in the log alone, in about 48 bytes and 4 for each candidate until they are
// forgotten: found by a hash of their id, candidates by a hash of their item. An id that no request has is taken for a
// closed one with a probability of 1 in 10^12 at 18 million of them, an item for another candidate's with 1 in 10^7 at
// 400 candidates. Letters: B candidates.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "joiner/request.hpp"

namespace monolith::joiner {

class ClosedRequests {
  public:
    // `window_ms`: from the event time of a request to its deadline; `lateness_ms`: from there until it is forgotten.
    ClosedRequests(int64_t window_ms, int64_t lateness_ms) : window_ms_(window_ms), lateness_ms_(lateness_ms) {}
    ClosedRequests(const ClosedRequests&) = delete;
    ClosedRequests& operator=(const ClosedRequests&) = delete;

    size_t size() const { return size_; }
    size_t num_bytes() const;
    // Return the due time of the request to be forgotten first, kForeverMs without one.
    int64_t first_ms() const { return first_ms_; }
    // Return the latest due time, `otherwise` without a request.
    int64_t last_ms(int64_t otherwise) const;

    bool has(uint64_t hash) const { return find(hash) != kNowhere; }
    // Keep a request that is closed and has no impression; return false, and keep nothing, where it does not fit this
    // form: actions wait, its times are those of other settings, or two of its items have the same mark.
    bool keep(const Request& request, uint64_t hash);
    // Fill `request`, which has its id already, with marks in place of its item ids, and give the request up; return
    // false without one.
    bool give_back(uint64_t hash, Request& request);

    struct Forgotten {
        int64_t offset;
        uint32_t state_block;
    };
    // Forget the request that is due first.
    Forgotten forget_first();

  private:
    // A kept request, followed by its marks uint32 (B,), then by those of its lists that it needs: rates float32 (B,),
    // statuses uint8 (B,), labels (B, bytes of a label).
    struct Entry {
        uint64_t hash;
        int64_t deadline_ms : 48;
        int64_t offset : 48;
        int32_t clock_after_ms;  // of the topic before the impression, after the event time of this
        uint32_t state_block;
        uint32_t num_candidates : 24;
        uint32_t has_rates : 1;
        uint32_t has_statuses : 1;
        uint32_t label_bytes : 4;  // of one candidate, 0 to 8; 0: no label
        uint32_t is_gone : 1;
        uint32_t : 1;
    } __attribute__((packed, aligned(4)));
    static_assert(sizeof(Entry) == 32);
    // Place of an entry: chunk, and 4 bytes in it.
    using Handle = uint32_t;
    static constexpr size_t kUnit = 4, kUnitsLog2 = 16, kChunkBytes = kUnit << kUnitsLog2;
    static constexpr size_t kMaxChunks = size_t{1} << 16;
    static constexpr size_t kNowhere = SIZE_MAX;
    static constexpr Handle kEmpty = UINT32_MAX;
    static constexpr int64_t kBucketMs = 4000;
    struct Chunk {
        std::unique_ptr<char[]> bytes;
        size_t used = 0;
        size_t num_due = 0;  // of the handles to it in `due_` and `current_`
    };

    char* at(Handle handle) const {
        return chunks_[handle >> kUnitsLog2].bytes.get() + (handle & ((1U << kUnitsLog2) - 1)) * kUnit;
    }
    Entry& entry(Handle handle) const { return *reinterpret_cast<Entry*>(at(handle)); }
    int64_t due_ms(Handle handle) const { return entry(handle).deadline_ms + lateness_ms_; }
    size_t home_of(uint64_t hash) const { return (hash >> 32) * handles_.size() >> 32; }
    static uint8_t tag_of(uint64_t hash) { return static_cast<uint8_t>(hash); }
    size_t next(size_t slot) const { return slot + 1 == handles_.size() ? 0 : slot + 1; }

    size_t find(uint64_t hash) const;
    Handle allocate(size_t num_bytes);
    void put(Handle handle);
    void erase(size_t slot);
    void grow();
    void plan(Handle handle);
    // Drop the handles of requests that were given back, and have the first one at the end of `current_`.
    void settle_first();

    int64_t window_ms_, lateness_ms_;
    std::vector<Handle> handles_;  // open addressing with linear probing
    std::vector<uint8_t> tags_;
    size_t size_ = 0;
    std::vector<Chunk> chunks_;
    std::vector<uint32_t> free_;  // chunks without bytes
    std::optional<uint32_t> open_;
    std::map<int64_t, std::vector<Handle>> due_;  // by due time in units of kBucketMs, unordered within
    std::vector<Handle> current_;                 // of the bucket `current_bucket_`, the first of all last
    int64_t current_bucket_ = 0;
    int64_t first_ms_ = kForeverMs;
};

}  // namespace monolith::joiner
