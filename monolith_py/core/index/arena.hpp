// Allocator of blocks of buckets. Blocks never move; a freed block merges with its neighbours.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "index/bucket.hpp"
#include "memory/region.hpp"

namespace monolith {

// Any number of threads may call at once. Sizes are in buckets. Segments double in size, so addresses follow the use.
template <typename T>
class BlockArena {
  public:
    // On failure (std::bad_alloc) nothing changes.
    T* allocate(size_t size) {
        std::lock_guard lock(mutex_);
        for (const auto& segment : segments_)
            if (T* const found = segment->take(size)) return found;
        const size_t last = segments_.empty() ? 0 : segments_.back()->region.reserved();
        segments_.push_back(std::make_unique<Segment>(std::max({kFirstBytes, 2 * last, size * sizeof(T)})));
        return segments_.back()->take(size);
    }
    void release(T* buckets, size_t size) noexcept {
        std::lock_guard lock(mutex_);
        for (const auto& segment : segments_)
            if (segment->has(buckets)) return segment->give(static_cast<size_t>(buckets - segment->base()), size);
    }
    size_t bytes() const {
        std::lock_guard lock(mutex_);
        size_t sum = 0;
        for (const auto& segment : segments_) sum += segment->region.bytes();
        return sum;
    }

  private:
    static constexpr size_t kFirstBytes = size_t{1} << 16;

    struct Segment {
        explicit Segment(size_t bytes) : region(bytes) {}
        T* base() const { return reinterpret_cast<T*>(region.data()); }
        bool has(const T* bucket) const { return bucket >= base() && bucket < base() + end; }

        // Return null without room.
        T* take(size_t size) {
            for (auto block = free.begin(); block != free.end(); ++block) {  // first fit: low addresses fill up
                if (block->second < size) continue;
                const size_t begin = block->first, rest = block->second - size;
                auto node = free.extract(block);
                if (rest > 0) {
                    node.key() = begin + size;
                    node.mapped() = rest;
                    free.insert(std::move(node));
                }
                return base() + begin;
            }
            auto last = free.empty() ? free.end() : std::prev(free.end());  // the last free block may reach the end
            if (last != free.end() && last->first + last->second != end) last = free.end();
            const size_t begin = last == free.end() ? end : last->first;
            if ((begin + size) * sizeof(T) > region.reserved()) return nullptr;
            region.ensure((begin + size) * sizeof(T));
            if (last != free.end()) free.erase(last);
            end = begin + size;
            return base() + begin;
        }
        void give(size_t begin, size_t size) noexcept {
            auto next = free.lower_bound(begin);
            if (next != free.end() && next->first == begin + size) {
                size += next->second;
                next = free.erase(next);
            }
            if (next != free.begin()) {
                const auto before = std::prev(next);
                if (before->first + before->second == begin) {
                    before->second += size;
                    return;
                }
            }
            try {
                free.emplace(begin, size);
            } catch (const std::bad_alloc&) {  // NOLINT(bugprone-empty-catch): the block stays unused
            }
        }

        Region region;
        std::map<size_t, size_t> free;  // begin -> size
        size_t end = 0;
    };

    mutable std::mutex mutex_;
    std::vector<std::unique_ptr<Segment>> segments_;
};

using BucketArena = BlockArena<Bucket>;

}  // namespace monolith
