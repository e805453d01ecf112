"""Results told to systems that read no DICOM: HL7 v2 to a RIS, FHIR to a record. Off unless a receiver is named."""
