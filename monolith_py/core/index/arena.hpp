// Allocator of bucket blocks in one region; merges freed blocks with their neighbours.
#pragma once

#include <cstdint>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>

#include "index/bucket.hpp"
#include "memory/region.hpp"

namespace monolith {

// Any number of threads may call at once. Sizes are in buckets.
class BucketArena {
  public:
    // The region may take `share` of the machine's memory.
    explicit BucketArena(double share = 1.0) : region_(share) {}

    Bucket* allocate(size_t size) {
        std::lock_guard lock(mutex_);
        for (auto block = free_.begin(); block != free_.end(); ++block) {  // first fit: low addresses fill up
            if (block->second < size) continue;
            const size_t begin = block->first, rest = block->second - size;
            free_.erase(block);
            if (rest > 0) free_[begin + size] = rest;
            return base() + begin;
        }
        size_t begin = end_;
        if (!free_.empty()) {  // the last free block may reach the end
            const auto last = std::prev(free_.end());
            if (last->first + last->second == end_) {
                begin = last->first;
                free_.erase(last);
            }
        }
        region_.ensure((begin + size) * sizeof(Bucket));
        end_ = begin + size;
        return base() + begin;
    }
    void release(Bucket* buckets, size_t size) {
        std::lock_guard lock(mutex_);
        size_t begin = static_cast<size_t>(buckets - base());
        auto next = free_.lower_bound(begin);
        if (next != free_.end() && next->first == begin + size) {
            size += next->second;
            next = free_.erase(next);
        }
        if (next != free_.begin()) {
            const auto before = std::prev(next);
            if (before->first + before->second == begin) {
                before->second += size;
                return;
            }
        }
        free_[begin] = size;
    }
    size_t bytes() const { return region_.bytes(); }

  private:
    Bucket* base() const { return reinterpret_cast<Bucket*>(region_.data()); }
    std::mutex mutex_;
    Region region_;
    std::map<size_t, size_t> free_;  // begin -> size
    size_t end_ = 0;
};

}  // namespace monolith
