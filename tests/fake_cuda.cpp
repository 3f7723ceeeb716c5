// A CUDA device that does nothing, for fake_cuda.py. torch asks it for the current device.
#include <c10/core/impl/DeviceGuardImplInterface.h>

using namespace c10;

struct FakeGuard final : public impl::DeviceGuardImplInterface {
    Device gpu = Device(DeviceType::CUDA, 0);

    DeviceType type() const override { return DeviceType::CUDA; }
    Device exchangeDevice(Device) const override { return gpu; }
    Device getDevice() const override { return gpu; }
    void setDevice(Device) const override {}
    void uncheckedSetDevice(Device) const noexcept override {}
    Stream getStream(Device) const override { return Stream(Stream::DEFAULT, gpu); }
    Stream exchangeStream(Stream stream) const override { return stream; }
    DeviceIndex deviceCount() const noexcept override { return 1; }
};

static FakeGuard guard;
static impl::DeviceGuardImplRegistrar registrar(DeviceType::CUDA, &guard);
