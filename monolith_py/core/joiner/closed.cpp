#include "joiner/closed.hpp"

#include <algorithm>
#include <utility>

namespace monolith::joiner {

namespace {

// Largest part of the slots in use, in eighths, and growth.
constexpr size_t kMaxLoad = 6;
constexpr size_t kSmallest = 64;

bool are_unique(std::vector<uint32_t> marks) {
    std::sort(marks.begin(), marks.end());
    return std::adjacent_find(marks.begin(), marks.end()) == marks.end();
}

// Read or write the items of a list, and move on behind it.
template <typename T>
void write_item(char*& out, T value, size_t size = sizeof(T)) {
    std::memcpy(out, &value, size);
    out += size;
}
template <typename T>
T read_item(const char*& in, size_t size = sizeof(T)) {
    T value{};
    std::memcpy(&value, in, size);
    in += size;
    return value;
}

}  // namespace

size_t ClosedRequests::num_bytes() const {
    const size_t num_chunks = chunks_.size() - free_.size();
    return num_chunks * kChunkBytes + handles_.size() * (sizeof(Handle) + 1) + size_ * sizeof(Handle);
}

int64_t ClosedRequests::last_ms(int64_t otherwise) const {
    int64_t last_ms = otherwise;
    for (const auto& [bucket, handles] : due_)
        for (Handle handle : handles) last_ms = std::max(last_ms, due_ms(handle));
    for (Handle handle : current_) last_ms = std::max(last_ms, due_ms(handle));
    return last_ms;
}

bool ClosedRequests::keep(const Request& request, uint64_t hash) {
    const uint32_t num = request.num_candidates;
    const bool has_actions = request.actions && !(request.actions->early.empty() && request.actions->late.empty());
    const bool is_other = request.is_waiting() || request.deadline_ms - request.time_ms != window_ms_;
    if (has_actions || is_other || request.deadline_ms >> 47 || request.offset >> 47 || has(hash)) return false;
    const int64_t clock_after_ms = request.clock_ms - request.time_ms;
    if (clock_after_ms != static_cast<int32_t>(clock_after_ms)) return false;  // also of a topic that has no time yet
    bool has_statuses = false;
    uint64_t labels = 0;
    std::vector<uint32_t> marks, unique;
    for (uint32_t row = 0; row < num; ++row) {
        const Request::Candidate& candidate = request.candidates[row];
        has_statuses |= candidate.status != Status::kEmitted;
        labels |= candidate.labels;
        const int64_t mark = request.has_marks ? candidate.item_id : request.mark_of(candidate.item_id);
        marks.push_back(static_cast<uint32_t>(mark));
        if (candidate.status != Status::kRepeated) unique.push_back(marks.back());
    }
    size_t label_bytes = 0;
    for (; labels; labels >>= 8) ++label_bytes;
    const size_t each = sizeof(uint32_t) + (request.rates ? sizeof(float) : 0) + has_statuses + label_bytes;
    const size_t num_bytes = (sizeof(Entry) + num * each + kUnit - 1) / kUnit * kUnit;
    const bool is_full = free_.empty() && chunks_.size() == kMaxChunks;
    if (num_bytes > kChunkBytes / 4 || is_full || !are_unique(std::move(unique))) return false;
    const Handle handle = allocate(num_bytes);
    Entry& kept = entry(handle);
    kept.hash = hash;
    kept.deadline_ms = request.deadline_ms;
    kept.offset = request.offset;
    kept.clock_after_ms = static_cast<int32_t>(clock_after_ms);
    kept.state_block = request.state_block;
    kept.num_candidates = num;
    kept.has_rates = request.rates != nullptr;
    kept.has_statuses = has_statuses;
    kept.label_bytes = static_cast<uint32_t>(label_bytes);
    kept.is_gone = false;
    char* out = at(handle) + sizeof(Entry);
    for (uint32_t mark : marks) write_item(out, mark);
    for (uint32_t row = 0; row < num && request.rates; ++row) write_item(out, static_cast<float>(request.rates[row]));
    for (uint32_t row = 0; row < num && has_statuses; ++row) write_item(out, request.candidates[row].status);
    for (uint32_t row = 0; row < num && label_bytes > 0; ++row)
        write_item(out, request.candidates[row].labels, label_bytes);
    if ((size_ + 1) * 8 > handles_.size() * kMaxLoad) grow();
    put(handle);
    ++size_;
    plan(handle);
    return true;
}

bool ClosedRequests::give_back(uint64_t hash, Request& request) {
    const size_t slot = find(hash);
    if (slot == kNowhere) return false;
    const Handle handle = handles_[slot];
    Entry& kept = entry(handle);
    const uint32_t num = kept.num_candidates;
    request.deadline_ms = kept.deadline_ms;
    request.time_ms = request.deadline_ms - window_ms_;
    request.offset = kept.offset;
    request.clock_ms = request.time_ms + kept.clock_after_ms;
    request.state_block = kept.state_block;
    request.num_candidates = num;
    request.has_marks = true;
    request.candidates = std::make_unique<Request::Candidate[]>(num);
    const char* in = at(handle) + sizeof(Entry);
    for (uint32_t row = 0; row < num; ++row) request.candidates[row].item_id = read_item<uint32_t>(in);
    request.rates = kept.has_rates ? std::make_unique<double[]>(num) : nullptr;
    for (uint32_t row = 0; row < num && kept.has_rates; ++row) request.rates[row] = read_item<float>(in);
    for (uint32_t row = 0; row < num; ++row)
        request.candidates[row].status = kept.has_statuses ? read_item<Status>(in) : Status::kEmitted;
    for (uint32_t row = 0; row < num && kept.label_bytes > 0; ++row)
        request.candidates[row].labels = read_item<uint64_t>(in, kept.label_bytes);
    kept.is_gone = true;  // its handle among the due ones stays until then
    erase(slot);
    settle_first();
    return true;
}

ClosedRequests::Forgotten ClosedRequests::forget_first() {
    Entry& first = entry(current_.back());
    const Forgotten forgotten{first.offset, first.state_block};
    erase(find(first.hash));
    first.is_gone = true;
    settle_first();
    return forgotten;
}

size_t ClosedRequests::find(uint64_t hash) const {
    if (size_ == 0) return kNowhere;
    for (size_t slot = home_of(hash); handles_[slot] != kEmpty; slot = next(slot))
        if (tags_[slot] == tag_of(hash) && entry(handles_[slot]).hash == hash) return slot;
    return kNowhere;
}

ClosedRequests::Handle ClosedRequests::allocate(size_t num_bytes) {
    if (!open_ || chunks_[*open_].used + num_bytes > kChunkBytes) {
        if (free_.empty()) {
            free_.push_back(static_cast<uint32_t>(chunks_.size()));
            chunks_.emplace_back();
        }
        open_ = free_.back();
        free_.pop_back();
        chunks_[*open_] = {std::make_unique_for_overwrite<char[]>(kChunkBytes), 0, 0};
    }
    Chunk& chunk = chunks_[*open_];
    const auto handle = static_cast<Handle>(*open_ << kUnitsLog2 | chunk.used / kUnit);
    chunk.used += num_bytes;
    return handle;
}

void ClosedRequests::put(Handle handle) {
    const uint64_t hash = entry(handle).hash;
    size_t slot = home_of(hash);
    while (handles_[slot] != kEmpty) slot = next(slot);
    handles_[slot] = handle;
    tags_[slot] = tag_of(hash);
}

void ClosedRequests::erase(size_t hole) {
    --size_;
    const auto distance = [&](size_t from, size_t to) { return to >= from ? to - from : to + handles_.size() - from; };
    // Entries behind the hole move into it unless that is before their first place.
    for (size_t slot = next(hole); handles_[slot] != kEmpty; slot = next(slot)) {
        const size_t home = home_of(entry(handles_[slot]).hash);
        if (distance(home, slot) < distance(hole, slot)) continue;
        handles_[hole] = handles_[slot];
        tags_[hole] = tags_[slot];
        hole = slot;
    }
    handles_[hole] = kEmpty;
}

void ClosedRequests::grow() {
    const size_t num = std::max(kSmallest, handles_.size() + handles_.size() / 4);
    std::vector<Handle> before(num, kEmpty);
    before.swap(handles_);
    tags_.assign(num, 0);
    for (Handle handle : before)
        if (handle != kEmpty) put(handle);
}

void ClosedRequests::plan(Handle handle) {
    ++chunks_[handle >> kUnitsLog2].num_due;
    const int64_t due = due_ms(handle), bucket = due / kBucketMs;
    if (!current_.empty() && bucket == current_bucket_) {
        const auto is_later = [&](Handle one, int64_t than_ms) { return due_ms(one) > than_ms; };
        current_.insert(std::lower_bound(current_.begin(), current_.end(), due, is_later), handle);
        first_ms_ = std::min(first_ms_, due);
        return;
    }
    if (!current_.empty() && bucket < current_bucket_) due_[current_bucket_] = std::exchange(current_, {});
    std::vector<Handle>& handles = due_[bucket];
    if (handles.size() == handles.capacity()) handles.reserve(handles.size() + handles.size() / 4 + 4);
    handles.push_back(handle);
    if (current_.empty()) settle_first();
}

void ClosedRequests::settle_first() {
    for (;;) {
        while (!current_.empty() && entry(current_.back()).is_gone) {
            const uint32_t number = current_.back() >> kUnitsLog2;
            current_.pop_back();
            Chunk& chunk = chunks_[number];
            if (--chunk.num_due > 0) continue;
            if (open_ == number) open_.reset();
            chunk = {};
            free_.push_back(number);
        }
        if (!current_.empty() || due_.empty()) break;
        current_bucket_ = due_.begin()->first;
        current_ = std::exchange(due_.begin()->second, {});
        due_.erase(due_.begin());
        std::sort(current_.begin(), current_.end(),
                  [&](Handle one, Handle other) { return due_ms(one) > due_ms(other); });
    }
    first_ms_ = current_.empty() ? kForeverMs : due_ms(current_.back());
}

}  // namespace monolith::joiner
