// Labels of a candidate in 64 bits: one bit for a binary task or a class, 16 for a number
// (monolith_py/data/label_bits.py). Numbers only grow, like bits: the order of actions makes no difference.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

namespace monolith::joiner {

class LabelLayout {
  public:
    LabelLayout() = default;
    // Bits of each task in order, 1 or 16, at most 64 together.
    explicit LabelLayout(const std::vector<uint8_t>& widths) {
        uint32_t shift = 0;
        for (uint8_t width : widths) {
            fields_.push_back({shift, width});
            if (width > 1) numbers_ |= mask_of(fields_.back());
            shift += width;
        }
        all_ = shift == 64 ? ~uint64_t{0} : (uint64_t{1} << shift) - 1;
    }

    size_t size() const { return fields_.size(); }
    uint32_t width(size_t task) const { return fields_[task].width; }
    // Labels that no action can raise.
    uint64_t all() const { return all_; }
    // Bits of the labels `kind` that an action of a value above 0 makes: its numbers become that value.
    uint64_t of_value(uint64_t kind, double value) const {
        if (!(kind & numbers_)) return kind;
        uint64_t bits = kind & ~numbers_;
        for (const Field& field : fields_)
            if (field.width > 1 && kind & mask_of(field)) bits |= uint64_t{code_of(value)} << field.shift;
        return bits;
    }
    uint64_t merged(uint64_t one, uint64_t other) const {
        if (!numbers_) return one | other;
        uint64_t bits = (one | other) & ~numbers_;
        for (const Field& field : fields_)
            if (field.width > 1) bits |= std::max(one & mask_of(field), other & mask_of(field));
        return bits;
    }
    // Labels that `bits` make positive and `labels` do not have.
    uint64_t fresh(uint64_t bits, uint64_t labels) const {
        if (!numbers_) return bits & ~labels;
        uint64_t result = bits & ~labels & ~numbers_;
        for (const Field& field : fields_)
            if (field.width > 1 && !(labels & mask_of(field))) result |= bits & mask_of(field);
        return result;
    }
    uint64_t field(uint64_t labels, size_t task) const {
        return (labels & mask_of(fields_[task])) >> fields_[task].shift;
    }
    uint64_t placed(uint64_t field, size_t task) const { return field << fields_[task].shift; }
    // Label of a task: 0 or 1, or a number.
    float value(uint64_t labels, size_t task) const {
        const uint64_t bits = field(labels, task);
        if (fields_[task].width == 1 || bits == 0) return static_cast<float>(bits);
        return std::bit_cast<float>(static_cast<uint32_t>(bits + kLeast) << kDropped);
    }

  private:
    struct Field {
        uint32_t shift, width;
    };
    // A number is a float32 without sign and the last 13 bits of its fraction, from 2^-32 on: 6 bits of exponent.
    static constexpr uint32_t kDropped = 13, kLeast = (127 - 32) << 10;

    static uint64_t mask_of(const Field& field) { return ((uint64_t{1} << field.width) - 1) << field.shift; }
    static uint16_t code_of(double value) {
        const auto number = static_cast<float>(std::min(value, 1e30));
        const uint32_t rounded = (std::bit_cast<uint32_t>(number) + (1u << (kDropped - 1))) >> kDropped;
        return static_cast<uint16_t>(std::clamp<int64_t>(int64_t{rounded} - kLeast, 1, 65535));
    }

    std::vector<Field> fields_;
    uint64_t numbers_ = 0, all_ = 0;
};

}  // namespace monolith::joiner
