// Request id -> request: open addressing with linear probing. Ids are compared whole, and the hash has a secret, since
// apps choose ids.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "index/secret.hpp"
#include "joiner/request.hpp"

namespace monolith::joiner {

inline uint64_t id_hash(std::string_view id) {
    uint64_t hash = hash_secret() ^ mix(id.size() + kGolden);
    for (size_t at = 0; at < id.size(); at += 8) {
        uint64_t word = 0;
        std::memcpy(&word, id.data() + at, std::min<size_t>(8, id.size() - at));
        hash = mix(hash ^ word) * kGolden;
    }
    return hash;
}

class RequestMap {
  public:
    RequestMap() : slots_(kSmallest) {}
    size_t size() const { return size_; }
    size_t capacity_bytes() const { return slots_.size() * sizeof(Slot); }

    Request* find(std::string_view id) const {
        const Slot& slot = slots_[place_of(id, hash_of(id))];
        return slot.request.get();
    }

    // Return the request of this id, a new one if there is none.
    Request& insert(std::string_view id) {
        if ((size_ + 1) * 4 > slots_.size() * 3) grow();
        const uint32_t hash = hash_of(id);
        Slot& slot = slots_[place_of(id, hash)];
        if (!slot.request) {
            slot.request = std::make_unique<Request>();
            slot.request->id = id;
            slot.hash = hash;
            ++size_;
        }
        return *slot.request;
    }

    // Delete a request that is here.
    void erase(const Request& request) {
        const size_t mask = slots_.size() - 1;
        size_t hole = place_of(request.id, hash_of(request.id));
        slots_[hole].request.reset();
        --size_;
        // Entries behind the hole move into it unless that is before their first place.
        for (size_t at = (hole + 1) & mask; slots_[at].request; at = (at + 1) & mask) {
            const size_t first = slots_[at].hash & mask;
            if (((at - first) & mask) < ((at - hole) & mask)) continue;
            slots_[hole] = std::move(slots_[at]);
            hole = at;
        }
    }

    template <typename Visit>
    void for_each(Visit visit) const {
        for (const Slot& slot : slots_)
            if (slot.request) visit(*slot.request);
    }

  private:
    struct Slot {
        std::unique_ptr<Request> request;
        uint32_t hash = 0;
    };
    static constexpr size_t kSmallest = 64;

    static uint32_t hash_of(std::string_view id) { return static_cast<uint32_t>(id_hash(id) >> 32); }
    // Return the slot of this id, or the empty one where it would be.
    size_t place_of(std::string_view id, uint32_t hash) const {
        const size_t mask = slots_.size() - 1;
        size_t at = hash & mask;
        while (slots_[at].request && (slots_[at].hash != hash || slots_[at].request->id != id)) at = (at + 1) & mask;
        return at;
    }
    void grow() {
        std::vector<Slot> before(slots_.size() * 2);
        before.swap(slots_);
        const size_t mask = slots_.size() - 1;
        for (Slot& slot : before) {
            if (!slot.request) continue;
            size_t at = slot.hash & mask;
            while (slots_[at].request) at = (at + 1) & mask;
            slots_[at] = std::move(slot);
        }
    }

    std::vector<Slot> slots_;
    size_t size_ = 0;
};

}  // namespace monolith::joiner
