"""Enhanced multi-frame CT and MR objects of the same invented patient as `series`, valid by dciodvfy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
from highdicom.legacy import LegacyConvertedEnhancedCTImage, LegacyConvertedEnhancedMRImage
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian

from dicom_bridge import uids
from tests.simulators.series import AXIAL, make_slice, normal_of

ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
HEAD = ("69536005", "SCT", "Head")

Frame = Callable[[int, Dataset], None]
"""Changes the functional groups of the frame of this index."""


def item(**values: object) -> Items:
    """Return a sequence of one item."""
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return Items([ds])


def code(value: str, scheme: str, meaning: str) -> Items:
    """Return a code sequence."""
    return item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def make_enhanced(
    positions: Sequence[int] = range(6),
    *,
    modality: str = "MR",
    shape: tuple[int, int] = (16, 12),
    orientation: Sequence[float] = AXIAL,
    step_mm: float = 2.0,
    spacing: tuple[float, float] = (1.25, 1.0),
    per_frame: Frame = lambda _index, _groups: None,
    instance: int = 1,
) -> Dataset:
    """Return one instance. Frame number n lies at `positions[n]` steps; its stored value at (r, c) is 100 n + 10 r + c.

    Geometry stands per frame where it changes (position) and shared where it does not, as scanners write it.
    """
    ds = _instance(modality, instance)
    pixels = np.stack(
        [100 * n + 10 * r + c for n in range(len(positions)) for r, c in [np.mgrid[: shape[0], : shape[1]]]]
    )
    ds.NumberOfFrames = len(positions)
    ds.Rows, ds.Columns = shape
    ds.PixelData = pixels.astype("<i2" if modality == "CT" else "<u2").tobytes()
    ds["PixelData"].VR = "OW"
    shared = Dataset()
    shared.PixelMeasuresSequence = item(PixelSpacing=list(spacing), SliceThickness=abs(step_mm))
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=[f"{v:.9f}"[:16] for v in orientation])
    shared.FrameAnatomySequence = item(FrameLaterality="U", AnatomicRegionSequence=code(*HEAD))
    shared.FrameVOILUTSequence = item(WindowCenter=300, WindowWidth=600)
    (_share_ct if modality == "CT" else _share_mr)(shared)
    ds.SharedFunctionalGroupsSequence = Items([shared])
    frames = []
    for n, position in enumerate(positions):
        at = np.array([-10.0, -20.0, -30.0]) + position * step_mm * normal_of(orientation)
        groups = Dataset()
        groups.PlanePositionSequence = item(ImagePositionPatient=[f"{v:.6f}" for v in at])
        groups.FrameContentSequence = item(
            DimensionIndexValues=[1, int(position) + 1],
            StackID="1",
            InStackPositionNumber=int(position) + 1,
            FrameAcquisitionNumber=1,
            FrameReferenceDateTime="20260401093000",
            FrameAcquisitionDateTime="20260401093000",
            FrameAcquisitionDuration=1.0,
        )
        per_frame(n, groups)
        frames.append(groups)
    ds.PerFrameFunctionalGroupsSequence = Items(frames)
    return ds


def make_legacy(modality: str = "MR", changes: Sequence[Callable[[Dataset], None]] = (lambda _ds: None,)) -> Dataset:
    """Return what highdicom converts from single-frame volumes of six slices, each changed by one of `changes`."""
    slices = [_classic(index, modality, at, change) for at, change in enumerate(changes) for index in range(6)]
    made = LegacyConvertedEnhancedCTImage if modality == "CT" else LegacyConvertedEnhancedMRImage
    # It tells of attributes that it leaves out by its logger.
    logging.getLogger("highdicom").setLevel(logging.ERROR)
    converted: Dataset = made(
        slices,
        series_instance_uid=uids.derive("TEST", "legacy-series", modality),
        series_number=7,
        sop_instance_uid=uids.derive("TEST", "legacy", modality),
        instance_number=1,
    )
    if modality == "MR":
        for group in converted.SharedFunctionalGroupsSequence:
            del group.FrameVOILUTSequence
    # Empty, which the standard does not allow.
    del converted.ReferencedSeriesSequence
    return converted


def _classic(index: int, modality: str, at: int, change: Callable[[Dataset], None]) -> Dataset:
    ds = make_slice(index, modality=modality, seed=f"legacy-{at}")
    for uid in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(ds, uid, make_slice(0, modality=modality, seed="legacy-0")[uid].value)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for moment in ("Study", "Series", "Acquisition", "Content", "InstanceCreation"):
        setattr(ds, f"{moment}Date", "20260401")
        setattr(ds, f"{moment}Time", "093000")
    ds.AccessionNumber, ds.ReferringPhysicianName, ds.PositionReferenceIndicator = "TESTACC1", "", ""
    ds.SliceThickness, ds.AcquisitionNumber, ds.PatientPosition, ds.Laterality = "1", 1, "HFS", ""
    ds.ManufacturerModelName, ds.DeviceSerialNumber, ds.SoftwareVersions = "Phantom Scanner", "1", "1"
    ds.BurnedInAnnotation = "NO"
    if modality == "MR":
        ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "GR", "SP", "", "3D"
        ds.RepetitionTime, ds.EchoTime, ds.EchoTrainLength, ds.MagneticFieldStrength = "2300", "3", "1", "3"
    else:
        ds.KVP, ds.ConvolutionKernel, ds.WindowCenter, ds.WindowWidth = "120", "B30f", "40", "400"
    change(ds)
    return ds


def content(**values: object) -> Callable[[Dataset], None]:
    """Return a change of the frame's content macro; None deletes."""

    def change(groups: Dataset) -> None:
        for keyword, value in values.items():
            if value is None:
                delattr(groups.FrameContentSequence[0], keyword)
            else:
                setattr(groups.FrameContentSequence[0], keyword, value)

    return change


def _instance(modality: str, number: int) -> Dataset:
    """The modules around the pixels (PS3.3 A.36, A.38)."""
    ds = make_slice(0, modality=modality, seed=f"enhanced-{modality}")
    for keyword in (
        *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"),
        "BodyPartExamined",
    ):
        if keyword in ds:
            delattr(ds, keyword)
    ds.SOPClassUID = ENHANCED_CT if modality == "CT" else ENHANCED_MR
    ds.SOPInstanceUID = uids.derive("TEST", "enhanced", modality, str(number))
    ds.InstanceNumber = number
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = "093000"
    ds.SeriesDate = ds.ContentDate = "20260401"
    ds.AcquisitionDateTime, ds.AcquisitionDuration, ds.AcquisitionNumber = "20260401093000", 60.0, 1
    ds.AccessionNumber = ds.ReferringPhysicianName = ds.PositionReferenceIndicator = ds.AcquisitionProtocolName = ""
    ds.AccessionNumber, ds.AcquisitionProtocolName = "TESTACC1", "Head"
    ds.ManufacturerModelName, ds.DeviceSerialNumber, ds.SoftwareVersions = "Phantom Scanner", "1", "1"
    ds.PatientPosition, ds.PixelPresentation, ds.VolumetricProperties = "HFS", "MONOCHROME", "VOLUME"
    ds.VolumeBasedCalculationTechnique, ds.ContentQualification = "NONE", "SERVICE"
    ds.BurnedInAnnotation, ds.LossyImageCompression, ds.PresentationLUTShape = "NO", "00", "IDENTITY"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.PixelRepresentation = 1 if modality == "CT" else 0
    ds.AcquisitionContextSequence = Items([])
    ds.PerformedProcedureStepStartDate, ds.PerformedProcedureStepStartTime = "20260401", "093000"
    ds.PerformedProcedureStepID = "1"
    organization = uids.derive("TEST", "dimensions")
    ds.DimensionOrganizationSequence = item(DimensionOrganizationUID=organization)
    ds.DimensionIndexSequence = Items(
        [
            item(
                DimensionOrganizationUID=organization,
                DimensionIndexPointer=pointer,
                FunctionalGroupPointer=0x00209111,
            )[0]
            for pointer in (0x00209056, 0x00209057)
        ]
    )
    if modality == "MR":
        _mr(ds)
    return ds


def _mr(ds: Dataset) -> None:
    """Enhanced MR Image and MR Pulse Sequence modules (PS3.3 C.8.13.1, C.8.13.4)."""
    ds.ComplexImageComponent, ds.AcquisitionContrast = "MAGNITUDE", "T1"
    ds.ResonantNucleus, ds.KSpaceFiltering, ds.MagneticFieldStrength = "1H", "NONE", 3.0
    ds.ApplicableSafetyStandardAgency = "IEC"
    ds.PulseSequenceName, ds.MRAcquisitionType, ds.EchoPulseSequence = "T1", "3D", "GRADIENT"
    ds.MultiPlanarExcitation = ds.PhaseContrast = ds.TimeOfFlightContrast = "NO"
    ds.SteadyStatePulseSequence, ds.EchoPlanarPulseSequence = "NONE", "NO"
    ds.SaturationRecovery, ds.SpectrallySelectedSuppression = "NO", "NONE"
    ds.OversamplingPhase, ds.GeometryOfKSpaceTraversal, ds.SegmentedKSpaceTraversal = "NONE", "RECTILINEAR", "SINGLE"
    ds.RectilinearPhaseEncodeReordering, ds.NumberOfKSpaceTrajectories = "LINEAR", 1
    ds.CoverageOfKSpace = "FULL"


def _share_mr(shared: Dataset) -> None:
    """MR functional groups that do not change (PS3.3 A.36.2.4)."""
    shared.MRImageFrameTypeSequence = item(
        FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        PixelPresentation="MONOCHROME",
        VolumetricProperties="VOLUME",
        VolumeBasedCalculationTechnique="NONE",
        ComplexImageComponent="MAGNITUDE",
        AcquisitionContrast="T1",
    )
    shared.MRTimingAndRelatedParametersSequence = item(
        RepetitionTime=2300,
        FlipAngle=9,
        EchoTrainLength=1,
        RFEchoTrainLength=1,
        GradientEchoTrainLength=1,
        SpecificAbsorptionRateSequence=item(
            SpecificAbsorptionRateDefinition="IEC_HEAD", SpecificAbsorptionRateValue=1.0
        ),
        OperatingModeSequence=Items(
            [item(OperatingModeType=kind, OperatingMode="IEC_NORMAL")[0] for kind in ("STATIC FIELD", "RF", "GRADIENT")]
        ),
        GradientOutputType="DB_DT",
        GradientOutput=1.0,
    )
    shared.MRFOVGeometrySequence = item(
        InPlanePhaseEncodingDirection="ROW",
        MRAcquisitionFrequencyEncodingSteps=12,
        MRAcquisitionPhaseEncodingStepsInPlane=16,
        MRAcquisitionPhaseEncodingStepsOutOfPlane=6,
        PercentSampling=100,
        PercentPhaseFieldOfView=100,
    )
    shared.MREchoSequence = item(EffectiveEchoTime=3.0)
    shared.MRModifierSequence = item(
        InversionRecovery="NO",
        FlowCompensation="NONE",
        Spoiling="RF",
        T2Preparation="NO",
        SpectrallySelectedExcitation="NONE",
        SpatialPresaturation="NONE",
        PartialFourier="NO",
        ParallelAcquisition="NO",
    )
    shared.MRImagingModifierSequence = item(
        MagnetizationTransfer="NONE",
        BloodSignalNulling="NO",
        Tagging="NONE",
        TransmitterFrequency=123.2,
        PixelBandwidth=200,
    )
    shared.MRReceiveCoilSequence = item(
        ReceiveCoilName="HEAD", ReceiveCoilManufacturerName="", ReceiveCoilType="HEAD", QuadratureReceiveCoil="NO"
    )
    shared.MRTransmitCoilSequence = item(
        TransmitCoilName="BODY", TransmitCoilManufacturerName="", TransmitCoilType="BODY"
    )
    shared.MRAveragesSequence = item(NumberOfAverages=1)
    shared.PixelValueTransformationSequence = item(RescaleIntercept=0, RescaleSlope=1, RescaleType="US")


def _share_ct(shared: Dataset) -> None:
    """CT functional groups that do not change (PS3.3 A.38.1.4)."""
    shared.CTImageFrameTypeSequence = item(
        FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        PixelPresentation="MONOCHROME",
        VolumetricProperties="VOLUME",
        VolumeBasedCalculationTechnique="NONE",
    )
    shared.CTAcquisitionTypeSequence = item(AcquisitionType="SEQUENCED", ConstantVolumeFlag="NO", FluoroscopyFlag="NO")
    shared.CTAcquisitionDetailsSequence = item(
        RotationDirection="CW",
        RevolutionTime=1.0,
        SingleCollimationWidth=1.0,
        TotalCollimationWidth=2.0,
        TableHeight=100.0,
        GantryDetectorTilt=0.0,
        DataCollectionDiameter=500.0,
    )
    shared.CTTableDynamicsSequence = item(TableSpeed=1.0, TableFeedPerRotation=1.0, SpiralPitchFactor=1.0)
    shared.CTPositionSequence = item(
        TablePosition=0.0,
        DataCollectionCenterPatient=[0.0, 0.0, 0.0],
        ReconstructionTargetCenterPatient=[0.0, 0.0, 0.0],
    )
    shared.IrradiationEventIdentificationSequence = item(IrradiationEventUID=uids.derive("TEST", "irradiation"))
    shared.CTGeometrySequence = item(DistanceSourceToDetector=1000.0, DistanceSourceToDataCollectionCenter=500.0)
    shared.CTReconstructionSequence = item(
        ReconstructionAlgorithm="FILTER_BACK_PROJ",
        ConvolutionKernel="B30f",
        ConvolutionKernelGroup="BRAIN",
        ReconstructionFieldOfView=[200.0, 200.0],
        ReconstructionPixelSpacing=[1.25, 1.0],
        ReconstructionAngle=360.0,
        ImageFilter="NONE",
    )
    shared.CTExposureSequence = item(
        ExposureTimeInms=1000.0, XRayTubeCurrentInmA=100.0, ExposureInmAs=100.0, ExposureModulationType="NONE"
    )
    shared.CTXRayDetailsSequence = item(
        KVP=120,
        FocalSpots=[1.0],
        FilterType="FLAT",
        FilterMaterial="ALUMINUM",
        CalciumScoringMassFactorPatient=1.0,
        EnergyWeightingFactor=1.0,
    )
    shared.PixelValueTransformationSequence = item(RescaleIntercept=-1024, RescaleSlope=1, RescaleType="HU")
