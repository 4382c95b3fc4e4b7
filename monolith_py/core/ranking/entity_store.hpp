// Stored features of users or items, or values of live counters, by id: a cache with a time limit and bounds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <shared_mutex>
#include <span>
#include <vector>

#include "ranking/order.hpp"

namespace monolith::ranking {

// Bounds of a store.
struct StoreLimits {
    size_t max_entries, max_bytes;
};

// Entries that a read takes. kFresh: entries that have not expired. kHeld: any.
enum class Age { kFresh, kHeld };

// Entities in the form of one packed row each. An entity that is not held reads as an unknown one: its id features have
// the id, other features no fid, and its dense values are those given at the start. Any number of threads may call at
// once; a reader waits for a writer only while pointers change.
class EntityStore {
  public:
    // `absent`: dense values of an unknown entity, (width,).
    EntityStore(EntityOrder order, std::vector<float> absent, StoreLimits limits);
    ~EntityStore();
    EntityStore(const EntityStore&) = delete;
    EntityStore& operator=(const EntityStore&) = delete;

    const EntityOrder& order() const { return order_; }

    // Put n entities: ids (n,), lengths (n, features), fids row by row, dense (n, width). The oldest entries beyond the
    // limits are dropped.
    void put(const int64_t* ids, size_t n, const int32_t* lengths, const int64_t* fids, const float* dense,
             int64_t expires_ms);
    // Append the rows of n entities to the lengths and fids of `rows`, and write the dense values of row i at
    // dense + i * stride. Lists the ids that are not held, or not of this age.
    void read(const int64_t* ids, size_t n, int64_t now_ms, Age age, Rows& rows, float* dense, size_t stride,
              std::vector<int64_t>& missing) const;

    size_t size() const;
    size_t num_bytes() const;
    // Most slots from the first one of an id to the one it is in.
    size_t longest_run() const;

  private:
    struct Entry;
    struct Slot {
        int64_t id;
        Entry* entry;  // null: free
    };
    // Readers and writers pass the gate in turn, so that a stream of readers holds up no writer.
    class Reading;

    size_t first(int64_t id) const;
    Entry* make(int64_t id, const int32_t* lengths, const int64_t* fids, const float* dense, int64_t expires_ms,
                size_t num_fids) const;
    // Adds what it drops to the list `dropped`. On failure (std::bad_alloc) nothing changes.
    void insert(Entry* entry, Entry*& dropped);
    void erase(size_t place);
    void unlink(Entry* entry);
    void link(Entry* entry);
    void grow();
    static void free_all(Entry* entries);  // a list by `newer`

    const EntityOrder order_;
    const std::vector<float> absent_;
    const StoreLimits limits_;
    const uint64_t factor_;  // secret: clients choose the ids
    mutable std::mutex gate_;
    mutable std::shared_mutex mutex_;
    std::vector<Slot> slots_;  // a power of two; open addressing
    size_t size_ = 0, bytes_ = 0;
    Entry *oldest_ = nullptr, *newest_ = nullptr;
};

}  // namespace monolith::ranking
