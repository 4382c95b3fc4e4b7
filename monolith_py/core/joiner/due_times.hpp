// Requests by due time, the earliest first, those of equal times by their ids: a heap that knows where each request is,
// so a changed due time moves its request and leaves nothing behind.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "joiner/request.hpp"

namespace monolith::joiner {

class DueTimes {
  public:
    bool empty() const { return entries_.empty(); }
    int64_t first_ms() const { return entries_.front().due_ms; }
    Request& first() const { return *entries_.front().request; }
    size_t capacity_bytes() const { return entries_.capacity() * sizeof(Entry); }

    // Return the due time of a request that is here.
    int64_t of(const Request& request) const { return entries_[request.place].due_ms; }

    // Set the due time of a request, here or not.
    void set(Request& request, int64_t due_ms) {
        if (request.place == kNowhere) {
            request.place = static_cast<uint32_t>(entries_.size());
            if (entries_.size() == entries_.capacity()) entries_.reserve(entries_.size() + entries_.size() / 4 + 64);
            entries_.push_back({due_ms, &request});
            move_up(request.place);
        } else if (entries_[request.place].due_ms != due_ms) {
            entries_[request.place].due_ms = due_ms;
            move_up(request.place);
            move_down(request.place);
        }
    }

    void remove(Request& request) {
        const uint32_t place = std::exchange(request.place, kNowhere);
        if (place == kNowhere) return;
        const Entry last = entries_.back();
        entries_.pop_back();
        if (place == entries_.size()) return;
        put(place, last);
        move_up(place);
        move_down(last.request->place);
    }

  private:
    struct Entry {
        int64_t due_ms;
        Request* request;
    };
    static constexpr uint32_t kNowhere = UINT32_MAX;
    static constexpr uint32_t kChildren = 4;

    static bool before(const Entry& one, const Entry& other) {
        return one.due_ms != other.due_ms ? one.due_ms < other.due_ms : one.request->id < other.request->id;
    }
    void put(uint32_t place, const Entry& entry) {
        entries_[place] = entry;
        entry.request->place = place;
    }
    void move_up(uint32_t place) {
        const Entry entry = entries_[place];
        while (place > 0) {
            const uint32_t parent = (place - 1) / kChildren;
            if (!before(entry, entries_[parent])) break;
            put(place, entries_[parent]);
            place = parent;
        }
        put(place, entry);
    }
    void move_down(uint32_t place) {
        const Entry entry = entries_[place];
        for (;;) {
            const size_t first = size_t{place} * kChildren + 1;
            if (first >= entries_.size()) break;
            size_t least = first;
            for (size_t child = first + 1; child < entries_.size() && child < first + kChildren; ++child)
                if (before(entries_[child], entries_[least])) least = child;
            if (!before(entries_[least], entry)) break;
            put(place, entries_[least]);
            place = static_cast<uint32_t>(least);
        }
        put(place, entry);
    }

    std::vector<Entry> entries_;
};

}  // namespace monolith::joiner
