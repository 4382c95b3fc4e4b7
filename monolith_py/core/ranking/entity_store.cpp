#include "ranking/entity_store.hpp"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "index/secret.hpp"

namespace monolith::ranking {

// An entry is followed by its fids, dense values and lengths.
struct EntityStore::Entry {
    int64_t id, expires_ms;
    Entry *older, *newer;
    uint32_t num_fids;
    uint32_t num_bytes;

    const int64_t* fids() const { return reinterpret_cast<const int64_t*>(this + 1); }
    const float* dense() const { return reinterpret_cast<const float*>(fids() + num_fids); }
    const int32_t* lengths(uint32_t width) const { return reinterpret_cast<const int32_t*>(dense() + width); }
    char* content() { return reinterpret_cast<char*>(this + 1); }
};

class EntityStore::Reading {
  public:
    explicit Reading(const EntityStore& store) : mutex_(store.mutex_) {
        std::lock_guard gate(store.gate_);
        mutex_.lock_shared();
    }
    Reading(const Reading&) = delete;
    Reading& operator=(const Reading&) = delete;
    ~Reading() { mutex_.unlock_shared(); }

  private:
    std::shared_mutex& mutex_;
};

EntityStore::EntityStore(EntityOrder order, std::vector<float> absent, StoreLimits limits)
    : order_(order), absent_(std::move(absent)), limits_(limits), factor_(bucket_factors().first), slots_(16) {}

EntityStore::~EntityStore() { free_all(oldest_); }

void EntityStore::free_all(Entry* entries) {
    while (entries != nullptr) std::free(std::exchange(entries, entries->newer));
}

size_t EntityStore::first(int64_t id) const { return hash_fid(id) * factor_ >> std::countl_zero(slots_.size() - 1); }

EntityStore::Entry* EntityStore::make(int64_t id, const int32_t* lengths, const int64_t* fids, const float* dense,
                                      int64_t expires_ms, size_t num_fids) const {
    const size_t of_fids = num_fids * sizeof(int64_t), of_dense = order_.width * sizeof(float);
    const size_t of_lengths = order_.features() * sizeof(int32_t);
    const size_t num_bytes = sizeof(Entry) + of_fids + of_dense + of_lengths;
    auto* const entry = static_cast<Entry*>(std::malloc(num_bytes));
    if (entry == nullptr) throw std::bad_alloc();
    *entry = {id, expires_ms, nullptr, nullptr, static_cast<uint32_t>(num_fids), static_cast<uint32_t>(num_bytes)};
    char* const content = entry->content();
    if (of_fids > 0) std::memcpy(content, fids, of_fids);
    if (of_dense > 0) std::memcpy(content + of_fids, dense, of_dense);
    if (of_lengths > 0) std::memcpy(content + of_fids + of_dense, lengths, of_lengths);
    return entry;
}

void EntityStore::put(const int64_t* ids, size_t n, const int32_t* lengths, const int64_t* fids, const float* dense,
                      int64_t expires_ms) {
    struct Lists {
        Entry *made = nullptr, *dropped = nullptr;
        ~Lists() {
            free_all(made);
            free_all(dropped);
        }
    } lists;
    Entry** end = &lists.made;
    for (size_t i = 0; i < n; ++i) {
        const int32_t* const own = lengths + i * order_.features();
        size_t num_fids = 0;
        for (uint32_t f = 0; f < order_.features(); ++f) num_fids += static_cast<size_t>(own[f]);
        *end = make(ids[i], own, fids, dense + i * order_.width, expires_ms, num_fids);
        end = &(*end)->newer;
        fids += num_fids;
    }
    std::lock_guard gate(gate_);
    std::unique_lock lock(mutex_);
    while (Entry* const entry = lists.made) {
        Entry* const next = entry->newer;
        insert(entry, lists.dropped);
        lists.made = next;
    }
}

void EntityStore::insert(Entry* entry, Entry*& dropped) {
    if (2 * (size_ + 1) > slots_.size()) grow();
    const auto drop = [&](Entry* one) {
        unlink(one);
        one->newer = std::exchange(dropped, one);
    };
    size_t place = first(entry->id);
    while (slots_[place].entry != nullptr && slots_[place].id != entry->id) place = (place + 1) & (slots_.size() - 1);
    if (Entry* const before = slots_[place].entry) drop(before);
    slots_[place] = {entry->id, entry};
    link(entry);
    while (size_ > limits_.max_entries || (bytes_ > limits_.max_bytes && size_ > 1)) {
        Entry* const oldest = oldest_;
        place = first(oldest->id);
        while (slots_[place].entry != oldest) place = (place + 1) & (slots_.size() - 1);
        erase(place);
        drop(oldest);
    }
}

// Close the gap in a run of slots, so that every entry is reached from its first slot.
void EntityStore::erase(size_t place) {
    const size_t mask = slots_.size() - 1;
    for (size_t next = (place + 1) & mask; slots_[next].entry != nullptr; next = (next + 1) & mask)
        if (((next - first(slots_[next].id)) & mask) >= ((next - place) & mask)) {
            slots_[place] = slots_[next];
            place = next;
        }
    slots_[place].entry = nullptr;
}

void EntityStore::unlink(Entry* entry) {
    (entry->older ? entry->older->newer : oldest_) = entry->newer;
    (entry->newer ? entry->newer->older : newest_) = entry->older;
    bytes_ -= entry->num_bytes;
    --size_;
}

void EntityStore::link(Entry* entry) {
    entry->older = newest_;
    entry->newer = nullptr;
    (newest_ ? newest_->newer : oldest_) = entry;
    newest_ = entry;
    bytes_ += entry->num_bytes;
    ++size_;
}

void EntityStore::grow() {
    std::vector<Slot> before(2 * slots_.size());
    before.swap(slots_);
    for (const Slot& slot : before) {
        if (slot.entry == nullptr) continue;
        size_t place = first(slot.id);
        while (slots_[place].entry != nullptr) place = (place + 1) & (slots_.size() - 1);
        slots_[place] = slot;
    }
}

void EntityStore::read(const int64_t* ids, size_t n, int64_t now_ms, Age age, Rows& rows, float* dense, size_t stride,
                       std::vector<int64_t>& missing) const {
    static thread_local std::vector<const Entry*> entries;
    entries.resize(n);
    const Reading reading(*this);
    for (size_t i = 0; i < n; ++i) __builtin_prefetch(&slots_[first(ids[i])], 0, 3);
    size_t num_fids = 0;
    for (size_t i = 0; i < n; ++i) {
        size_t place = first(ids[i]);
        while (slots_[place].entry != nullptr && slots_[place].id != ids[i]) place = (place + 1) & (slots_.size() - 1);
        entries[i] = slots_[place].entry;
        if (entries[i] == nullptr) continue;
        const char* const begin = reinterpret_cast<const char*>(entries[i]);
        for (size_t at = 0; at < 256; at += 64) __builtin_prefetch(begin + at, 0, 3);
    }
    for (size_t i = 0; i < n; ++i) {
        if (entries[i] != nullptr && age == Age::kFresh && entries[i]->expires_ms <= now_ms) entries[i] = nullptr;
        if (entries[i] == nullptr && order_.is_stored()) missing.push_back(ids[i]);
        num_fids += entries[i] != nullptr ? entries[i]->num_fids : order_.ids;
    }
    const uint32_t features = order_.features(), width = order_.width;
    size_t fid_at = rows.fids.size(), length_at = rows.lengths.size();
    rows.fids.resize(fid_at + num_fids);
    rows.lengths.resize(length_at + n * features);
    for (size_t i = 0; i < n; ++i, length_at += features) {
        const Entry* const entry = entries[i];
        if (entry != nullptr) {
            std::copy_n(entry->fids(), entry->num_fids, rows.fids.data() + fid_at);
            std::copy_n(entry->lengths(width), features, rows.lengths.data() + length_at);
        } else {
            std::fill_n(rows.fids.data() + fid_at, order_.ids, ids[i]);
            std::fill_n(rows.lengths.data() + length_at, order_.ids, 1);
            std::fill_n(rows.lengths.data() + length_at + order_.ids, order_.stored, 0);
        }
        std::copy_n(entry != nullptr ? entry->dense() : absent_.data(), width, dense + i * stride);
        fid_at += entry != nullptr ? entry->num_fids : order_.ids;
    }
}

size_t EntityStore::size() const {
    const Reading reading(*this);
    return size_;
}

size_t EntityStore::longest_run() const {
    const Reading reading(*this);
    size_t longest = 0;
    for (size_t place = 0; place < slots_.size(); ++place)
        if (slots_[place].entry != nullptr)
            longest = std::max(longest, (place - first(slots_[place].id)) & (slots_.size() - 1));
    return longest;
}

size_t EntityStore::num_bytes() const {
    const Reading reading(*this);
    return bytes_;
}

}  // namespace monolith::ranking
